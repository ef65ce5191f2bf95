"""How findings read."""

from streams.audit.report import MAX_IDS, AuditReport, Section


def report(**let_go: int) -> AuditReport:
    section = Section("things")
    section.count("seen", 1_234)
    section.fault("lost", [f"id{n}" for n in range(MAX_IDS + 2)])
    section.fault("doubled", [])
    section.fault("extra", ["x"], verifiable=False)
    return AuditReport((section,), let_go)


def test_the_report_says_what_is_wrong() -> None:
    found = report(**{"ads.impressions": 7})
    assert not found.ok
    assert found.count("things", "lost") == MAX_IDS + 2
    assert found.count("things", "no such line") == 0
    as_dict = found.as_dict()
    assert as_dict["things"] == {"seen": 1234, "lost": 12, "doubled": 0, "extra": 1}
    (fault,), (unknown,) = as_dict["fault"], as_dict["unknown"]
    assert (fault["name"], fault["count"], len(fault["ids"])) == ("lost", MAX_IDS + 2, MAX_IDS)
    assert unknown == {"section": "things", "name": "extra", "count": 1, "ids": ["x"]}
    assert as_dict["let_go"] == {"ads.impressions": 7}


def test_the_table_has_a_row_for_each_count() -> None:
    rows = report(**{"ads.impressions": 7}).text().splitlines()
    assert [row.split() for row in rows[:5]] == [
        ["things"],
        ["seen", "1,234"],
        ["lost", "12", "WRONG", *[f"id{n}," for n in range(MAX_IDS)], "…"],
        ["doubled", "0", "ok"],
        ["extra", "1", "cannot", "be", "verified", "x"],
    ]
    assert "let go of the first 7 offsets" in rows[5]
    assert rows[6].startswith("NOT OK")


def test_what_cannot_be_verified_is_not_wrong() -> None:
    section = Section("things")
    section.fault("extra", ["x"], verifiable=False)
    assert AuditReport((section,), {}).ok
