from lgrpo_lightning.report.lines import newest_folder, scan


def scanned(path, content):
    path.write_bytes(content)
    notes = []
    found = list(scan(path, "file", notes))
    return found, notes


def test_every_line_can_be_read_again_from_its_place(tmp_path):
    found, notes = scanned(tmp_path / "file", '{"a": "é"}\n{"a": 2}\n'.encode())
    assert [record for _, record in found] == [{"a": "é"}, {"a": 2}]
    assert [line.read() for line, _ in found] == [{"a": "é"}, {"a": 2}]
    assert notes == []


def test_a_half_written_last_line_is_left_out_and_said(tmp_path):
    found, notes = scanned(tmp_path / "file", b'{"a": 1}\n{"a": 2')
    assert [record for _, record in found] == [{"a": 1}]
    assert notes == ["file: the last line is half written and left out."]


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    found, notes = scanned(tmp_path / "file", b'{"a": 1}\nnonsense\n\xff\xfe\n[1]\n{"a": 2}\n')
    assert [record["a"] for _, record in found] == [1, 2]
    assert notes == ["file: 3 lines (the first: line 2) are not valid and left out."]


def test_page_size_counts_what_escaping_adds(tmp_path):
    found, _ = scanned(tmp_path / "file", b'{"a": "<>&"}\n')
    assert found[0][0].page_size == found[0][0].size + 3 * len("\\u003c"[1:])


def test_the_newest_of_numbered_folders_is_taken_and_the_others_are_named(tmp_path):
    for name in ("completions", "completions-2", "completions-10", "completions-old"):
        (tmp_path / name).mkdir()
    notes = []
    assert newest_folder(tmp_path, "completions", notes) == tmp_path / "completions-10"
    assert "completions/, completions-2/" in notes[0]
    assert newest_folder(tmp_path, "trees", notes) is None
