"""Tables of results: whole wherever they go, and on a narrow terminal the summary gives way, no name."""

import json
import re
import sys

import pytest
from rich.table import Table
from stubs import save_tiny_model

from diamond_gym.cli import main
from diamond_gym.cli.terminal import print_table

NAME = "a-model-with-a-name-that-is-rather-long"


def listed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["list"]) == 0
    return capsys.readouterr().out.partition("\n\n")[0].splitlines()


def summaries(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["list", "--json"]) == 0
    return {row["name"]: row["summary"] for row in json.loads(capsys.readouterr().out) if row["from"] != "hub"}


def test_nothing_of_the_list_is_cut_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_model(NAME)
    rows, whole = listed(capsys)[1:], summaries(capsys)
    assert len(rows) == len(whole)
    for row, (name, summary) in zip(rows, whole.items(), strict=True):
        assert row.split()[0] == name
        assert row.rstrip().endswith(summary)
        assert " MB " in row
    assert all("…" not in row for row in rows)


@pytest.mark.parametrize("columns", [30, 80, 100])
def test_on_a_terminal_the_summary_gives_way(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    header, *rows = listed(capsys)
    names = list(summaries(capsys))
    assert [row.split()[0] for row in rows] == names
    assert all(" MB " in row and "package" in row for row in rows)
    assert all("…" not in row for row in rows)
    assert ("summary" in header) == (columns > 30)
    if columns > 30:
        assert max(len(row.rstrip()) for row in rows) <= columns


def test_words_of_a_narrow_table_go_on_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def table() -> Table:
        made = Table()
        made.add_column("figure")
        made.add_column("value")
        made.add_row("agent/some_name_of_a_figure", "some words that are many " * 3 + "[1]")
        return made

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    print_table(table())
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "agent/some_name_of_a_figure" in narrow
    assert narrow.count("many") == 3
    assert max(map(len, narrow.splitlines())) <= 50
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    print_table(table())
    assert "some words that are many " * 3 + "[1]" in capsys.readouterr().out
