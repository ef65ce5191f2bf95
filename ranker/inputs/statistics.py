"""Running statistics: impressions, clicks and conversions of each value of a slot, over all users.

A row of the table has, for each of two memories of M impressions, exponential means over the value's own impressions:

    shown ← γᵐ · shown + (1 - γᵐ)        clicked ← γᵐ · clicked + (1 - γᵐ) · k / m        γ = 1 - 1 / M

after m impressions with k clicks; so M · shown and M · clicked are counts that forget what is M impressions old, and
clicked / shown is a rate (the decayed counts of He et al., 2014, "Practical Lessons from Predicting Clicks on Ads at
Facebook"; they fade with what a value was shown since, so that nobody needs to know when it was shown last). Behind
them the same for conversions among clicks. All are in [0, 1], whatever is counted: the gate holds back any other.

An impression at a place where less is clicked is less of one: it counts as the odds of its place, beside those of an
average place ("clicks over expected clicks": Zhang and Jones, 2007, "Comparing Click Logs and Editorial Labels for
Training Query Rewriting"). Else what is always shown on top would seem to be liked.
"""

MEMORIES = (256.0, 4_096.0)
"""Impressions after which an impression counts 1/e."""
OF_CLICKS = 256.0
"""Clicks after which a click counts 1/e among those that were, or were not, followed by a conversion."""
SHOWN, CLICKED = 0, 1
"""Columns, from twice the number of the memory on."""
JUDGED, CONVERTED = 4, 5
"""Columns: clicks whose conversions are known, and conversions."""
MEMORY_OF_COLUMN = tuple(memory for memory in (*MEMORIES, OF_CLICKS) for _ in range(2))
