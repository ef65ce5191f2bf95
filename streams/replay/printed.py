"""A replay's report as text: what was judged, the verdict in a sentence, the table, and what the rivals are."""

import textwrap
from collections import Counter

from streams.replay.metrics import Interval
from streams.replay.report import AS_THE_MODEL, RESAMPLES, Comparison, Grades, ReplayReport, best_rival
from streams.replay.rivals import FIRST_FITS, REFIT_EVERY

WIDTH = 120
HARDLY_BEGUN = 5_000
"""Graded labels below which a verdict is about the beginning alone."""
RIVALS = (
    "Rivals. User and item means: of each the share of clicks so far, added as log-odds. Vowpal Wabbit with crosses: a "
    "linear model of all ids and features, and of the user crossed with each feature of the item, and the item with "
    f"each of the user's. Boosted trees on counts: fitted anew at {', '.join(f'{n:,}' for n in FIRST_FITS)} and then "
    f"each {REFIT_EVERY:,} labels, to clicks and counts so far of each category, and of the user with each category of "
    "the item. Base rate: the share of clicks so far. Vowpal Wabbit with the log's counts: told besides how often the "
    "user was shown, and clicked, the item and each of its categories before."
)
ASYMMETRY = (
    "What is not equal: the model reads the user's log at once, as the house serves it, and so do the log's counts; "
    "else rivals learn an event when its label is final, or as late as the model has learned it."
)


def as_text(report: ReplayReport) -> str:
    sent, answered = report.sent, ", ".join(f"{n} {status}" for status, n in sorted(report.sent.responses.items()))
    lines = [
        f"log       {report.log}",
        *_model(report),
        f"sent      {sent.requests} requests, {sent.impressions} impressions, {sent.clicks} clicks "
        f"in {sent.seconds:.1f} s",
        f"answered  {answered}{_by_tier(report)}",
        f"joined    {report.joined} of {sent.with_prediction} click examples, {report.joined_clicks} of them clicked; "
        f"{report.repeated} came again",
        f"learned   in {report.updates} updates; {report.unlearned} examples are not learned",
    ]
    if report.shift_ms:
        lines.append(f"times     moved by {report.shift_ms // (24 * 3_600_000)} days, so that all windows close today")
    if report.notes:
        lines += _wrapped(f"note      {report.notes}", indent=10)
    if report.audit.ok and report.joined:
        lines.append("audit     ok: nothing is wrong")
    else:
        lines += ["", "audit", report.audit.text()]
    return "\n".join([*lines, "", *_warnings(report), *_verdict(report), *_grades(report)])


def _model(report: ReplayReport) -> list[str]:
    recipe, model = report.recipe, report.recipe.model
    tiers = ", ".join(f"{name} (log of {model.tier(name).log_length} events)" for name in report.tiers)
    crosses, statistics = (
        ", ".join("×".join(one) for one in some) or "none" for some in (model.crosses, model.statistics)
    )
    said = (
        f"model     recipe {recipe.name}; tiers {tiers}; evidence {', '.join(model.evidence) or 'none'}; "
        f"crosses {crosses}; statistics {statistics}; digest {model.digest}"
    )
    aside = (
        [f"          leaves aside what the rows give as {', '.join(report.left_aside)}"] if report.left_aside else []
    )
    return [*_wrapped(said, indent=10), *aside]


def _by_tier(report: ReplayReport) -> str:
    counts = Counter(example.tier for example in report.examples)
    if len(report.tiers) < 2 or not counts:
        return ""
    return f"; graded by tier: {', '.join(f'{name} {counts[name]}' for name in report.tiers)}"


def _warnings(report: ReplayReport) -> list[str]:
    lines = []
    if report.known:
        lines += _wrapped(
            f"AGAIN: {report.known}. The model may have learned these very labels, so the figures below say little of "
            "what it makes of labels that it does not know."
        )
    if 0 < report.joined < report.sent.with_prediction:
        lines += _wrapped(
            f"NOT ALL: {report.sent.with_prediction - report.joined} impressions of scored answers came to no example, "
            "and are not graded; `tiderank dlq ls` says what was refused."
        )
    elif report.joined and report.joined_clicks < report.sent.clicks:
        lines += _wrapped(
            f"LATE: {report.sent.clicks - report.joined_clicks} of {report.sent.clicks} clicks came when their window "
            "had closed, and are graded as none: the house's event time is beyond the log's."
        )
    return [*lines, ""] if lines else []


def _verdict(report: ReplayReport) -> list[str]:
    if report.grades is None:
        return _wrapped(f"NOT GRADED: {_why_not(report)}")
    lines = _wrapped(verdict(report.grades))
    if report.grades.examples < HARDLY_BEGUN and not report.known:
        lines += _wrapped(
            f"Only {report.grades.examples:,} labels were graded: the model has hardly begun. Its weights begin with "
            "nothing, where a count says something from the first label on; judge it by some thousands more."
        )
    return [*lines, ""]


def verdict(grades: Grades) -> str:
    """The model beside the best of those that learn as late, and of those that learn each label at once."""
    late, prompt = best_rival(grades), best_rival(grades, late=False)
    return (
        f"Beside the best rival, {late.removesuffix(AS_THE_MODEL)} (labels as late as the model's): "
        f"{_said(grades.comparisons[late])}. Beside the best whose labels come as soon as their time is over, "
        f"{prompt}: {_said(grades.comparisons[prompt])}."
    )


def _said(compared: Comparison) -> str:
    said = compared.verdicts()
    return (
        f"normalized entropy {signed(compared.normalized_entropy)}: {said['normalized_entropy']}; "
        f"AUC {signed(compared.auc)}: {said['auc']}"
    )


def signed(interval: Interval) -> str:
    """A difference with its sign, as +.0042 [−.0017, +.0096]."""
    value, low, high = (_signed(number) for number in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _signed(number: float) -> str:
    digits = f"{abs(number):.4f}"
    return ("−" if number < 0 else "+") + (digits[1:] if digits.startswith("0.") else digits)


def _why_not(report: ReplayReport) -> str:
    sent = report.sent
    if not sent.with_prediction:
        return f"none of {sent.requests} answers was scored, so nothing was predicted; rank's log says why."
    if not report.joined:
        return (
            f"none of {sent.with_prediction} impressions of scored answers came to an example, so no label is known; "
            "what was refused is counted above (`tiderank dlq ls` says why, at a house that still runs)."
        )
    return (
        f"{report.joined} labels came, {report.joined_clicks} of them clicks: {report.why_no_grades}. Replay more of "
        "the log, or look at what counts as a click (click_at_least in the mapping)."
    )


def _grades(report: ReplayReport) -> list[str]:
    return [] if report.grades is None else [*_table(report.grades), "", *_wrapped(RIVALS), *_wrapped(ASYMMETRY)]


def _table(grades: Grades) -> list[str]:
    width = 2 + max(map(len, ["model - " + name for name in grades.comparisons]))
    lines = [
        f"{grades.examples} examples, {grades.clicks} clicks, {grades.users} users. 95 % intervals: AUC by DeLong "
        "(examples taken as independent),",
        f"normalized entropy by {RESAMPLES} bootstrap resamples of whole users. Baselines learn a label when its time "
        "has come; as late as",
        "the model: once the model that served had learned it.",
        "Not learned of the impressions before one: "
        f"{grades.lag[0]} by the model (median; p95 {grades.lag[1]}), "
        f"and of {grades.lag_of_labels[0]} ({grades.lag_of_labels[1]}) the time was not over.",
        *(f"left out: {name}" for name in grades.left_out),
        f"{'':{width}} {'AUC (higher is better)':28} normalized entropy (lower is better)",
        *(f"{name:{width}} {score.auc!s:28} {score.normalized_entropy}" for name, score in grades.scores.items()),
    ]
    for name, compared in grades.comparisons.items():
        lines += [_difference(name, compared, width), f"{'':{width}} {_words(compared)}"]
    return lines


def _difference(name: str, compared: Comparison, width: int) -> str:
    return f"{'model - ' + name:{width}} {compared.auc!s:28} {compared.normalized_entropy}"


def _words(compared: Comparison) -> str:
    return "; ".join(f"{metric}: {verdict}" for metric, verdict in compared.verdicts().items())


def _wrapped(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
