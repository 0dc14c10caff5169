"""Lists and tables as people write them: columns, delimiters, encodings, line ends and paths."""

from pathlib import Path

import pytest
from source_files import classes_of, sizes, write_images, write_parquet

from longtail.data.sources import open_source
from longtail.errors import UsageError


@pytest.mark.parametrize(
    ("header", "image", "label", "options"),
    [
        ("image,label", "image", "label", {}),
        ("Image,Label", "Image", "Label", {}),
        ("label,path", "path", "label", {}),
        ("filename,class", "filename", "class", {}),
        ("Filename;Width;ClassId", "Filename", "ClassId", {}),
        ("file_name\tcategory", "file_name", "category", {}),
        ("image_id,dx", "image_id", "dx", {}),
        ("lesion,image_id,dx,sex", "image_id", "dx", {"label_column": "dx"}),
        ("picture,dx", "picture", "dx", {"image_column": "picture", "label_column": "dx"}),
        ("image,label,fine", "image", "fine", {"label_column": "fine"}),
    ],
)
def test_columns(tmp_path: Path, header: str, image: str, label: str, options: dict[str, str]) -> None:
    write_images(tmp_path, "a.png", "b.png")
    delimiter = next(d for d in ";\t," if d in header)
    columns = header.split(delimiter)
    lines = [header]
    for name, value in (("a", "x"), ("b", "y")):
        lines.append(delimiter.join({image: f"{name}.png", label: value}.get(column, "7") for column in columns))
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    images = open_source(str(tmp_path / "t.csv"), **options).train
    assert [images.key(i) for i in range(2)] == ["a.png", "b.png"]
    assert classes_of(images) == ["x", "y"]


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,label\na.png,x\n")
    with pytest.raises(
        UsageError, match=r"Unknown column 'lable'. Did you mean 'label'.*--label-column names a column"
    ):
        open_source(str(tmp_path / "t.csv"), label_column="lable")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("image,label,label\na.png,x,y\n")
    with pytest.raises(UsageError, match="two columns are called 'label'"):
        open_source(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("written", [("1.0", "0.0"), ("1", "0"), ("True", "False")])
def test_one_column_for_each_class(tmp_path: Path, written: tuple[str, str]) -> None:
    one, zero = written
    write_images(tmp_path, "a.png", "b.png", "c.png")
    rows = [("a", zero, one, zero), ("b", one, zero, zero), ("c", zero, one, zero)]
    text = "image,MEL,NV,UNK\n" + "".join(",".join((f"{name}.png", *values)) + "\n" for name, *values in rows)
    (tmp_path / "t.csv").write_text(text)
    splits = open_source(str(tmp_path / "t.csv"))
    assert classes_of(splits.train) == ["NV", "MEL", "NV"]
    assert "the columns MEL, NV, UNK of zeros and ones are taken for the labels" in splits.notes[0]
    assert "1 of its 3 classes have no image and are left out: UNK" in splits.notes[1]
    (tmp_path / "t.csv").write_text(text.replace(f"c.png,{zero}", f"c.png,{one}"))
    with pytest.raises(UsageError, match=r"1 images have several labels \(line 4\). Multi-label data"):
        open_source(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text(text.replace(f"c.png,{zero},{one}", f"c.png,{zero},{zero}"))
    with pytest.raises(UsageError, match="line 4: no label"):
        open_source(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_line_ends_and_delimiters(tmp_path: Path, encoding: str, end: str, delimiter: str) -> None:
    write_images(tmp_path, "ä.png", "b.png")
    rows = [("image", "label"), ("ä.png", "Käfer"), ("b.png", "dog")]
    (tmp_path / "t.csv").write_bytes("".join(delimiter.join(row) + end for row in rows).encode(encoding))
    images = open_source(str(tmp_path / "t.csv")).train
    assert images.key(0) == "ä.png"
    assert classes_of(images) == ["Käfer", "dog"]
    (tmp_path / "t.txt").write_bytes(f"ä.png 0{end}{end}b.png 1".encode(encoding))
    assert classes_of(open_source(str(tmp_path / "t.txt")).train) == ["0", "1"]


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    for raw in ("image,label\nä.png,x\n".encode("latin1"), "image,label\nä.png,x\n".encode("utf-16-le"), b"\xff\xfea"):
        for name in ("t.csv", "t.txt"):
            (tmp_path / name).write_bytes(raw)
            with pytest.raises(UsageError, match=r"it is not UTF-8 text|a NUL character"):
                open_source(str(tmp_path / name))


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_lf_ends_a_line(tmp_path: Path, sign: str) -> None:
    names = [f"a{sign}0.png", "b.png"]
    write_images(tmp_path, *names)
    (tmp_path / "t.csv").write_text(f"image,label\n{names[0]},old{sign}dog\n{names[1]},cat\n")
    images = open_source(str(tmp_path / "t.csv")).train
    assert [images.key(i) for i in range(2)] == names
    assert classes_of(images) == [f"old{sign}dog", "cat"]
    (tmp_path / "t.txt").write_text(f"{names[0]} 1\n{names[1]} 0\n")
    images = open_source(str(tmp_path / "t.txt")).train
    assert [images.key(i) for i in range(2)] == names


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_nul_in_any_line(tmp_path: Path, line: int) -> None:
    write_images(tmp_path, "a.png")
    for name, lines in (("t.csv", ["image,label", "a.png,1", "a.png,2"]), ("t.txt", ["a.png 1"] * 3)):
        lines[line - 1] = "\0" + lines[line - 1]
        (tmp_path / name).write_text("\n".join(lines))
        with pytest.raises(UsageError, match=f"line {line}: a NUL character"):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na.png," + "x" * 200_000, r"line 2: .*200,000 characters\)' is no class name"),
        ("image,label\n" + "x" * 200_000 + ",1", r"200,000 characters\)', longer than any file's"),
        ("image,label\na.png," + "x" * 20_000_000, r"20,000,000 characters\)' is no class name|a row of more than"),
        (
            'image,label\na.png,"x\na.png,y\na.png,z\n',
            r"line 4: a line ends within the label. Is a quotation mark left open",
        ),
        ("image,label\na.png,x,y\n", "line 2: 3 fields where the header has 2"),
        ('image,label\n"a.png\n",x\n\na.png\n', "line 5: 1 fields where the header has 2: 'a.png'"),
        ("x" * 200_000, r"found x+\.\.\. \(200,000 characters\)"),
        ("image|label\na.png|x\n", r"its columns are separated by '\|'; expected commas, semicolons, tabs"),
    ],
    ids=range(8),
)
def test_tables_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        open_source(str(tmp_path / "t.csv"))
    assert len(str(caught.value)) < 500


def test_line_numbers_below_blank_lines_and_fields_of_several_lines(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text('image,label,text\n\na.png,x,"two\nlines"\n\na.png,,\n')
    with pytest.raises(UsageError, match="line 6: no label"):
        open_source(str(tmp_path / "t.csv"))


# paths


@pytest.mark.parametrize(
    ("written", "there", "told"),
    [
        ("d\\a.png", "d/a.png", "with '/' for"),
        ("/d/a.png", "d/a.png", "without the '/' before them"),
        (" a.png", "a.png", "without the white space"),
        ("a", "a.jpg", "as --suffix .jpg says"),
        ("a.b", "a.b.png", "as --suffix .png says"),
    ],
)
def test_paths_that_are_written_otherwise(tmp_path: Path, written: str, there: str, told: str) -> None:
    write_images(tmp_path, there)
    (tmp_path / "t.csv").write_text(f"image,label\n{written},x\n{written.replace('a', 'c')},y\n")
    splits = open_source(str(tmp_path / "t.csv"))
    assert [splits.train.key(i) for i in range(2)] == [there, there.replace("a.", "c.")]
    assert told in splits.notes[0]


def test_suffix_and_root(tmp_path: Path) -> None:
    write_images(tmp_path, "photos/7.png", "photos/8.png")
    (tmp_path / "t.csv").write_text("id,label\n7,x\n8,y\n")
    splits = open_source(str(tmp_path / "t.csv"), root=str(tmp_path / "photos"), suffix=".png")
    assert [splits.train.key(i) for i in range(2)] == ["7.png", "8.png"]
    assert splits.notes == ()
    with pytest.raises(
        UsageError, match=r"its first image '7' is not under .*--root, and what their names lack as --suffix"
    ):
        open_source(str(tmp_path / "t.csv"))


def test_lists_with_commas(tmp_path: Path) -> None:
    """The grocery set's lists: path, fine label, coarse label."""
    write_images(tmp_path, "train/a b.png", "train/c.png")
    (tmp_path / "t.txt").write_text("train/a b.png, 3, 0\ntrain/c.png, 1, 0\n")
    splits = open_source(str(tmp_path / "t.txt"))
    assert [splits.train.key(i) for i in range(2)] == ["train/a b.png", "train/c.png"]
    assert classes_of(splits.train) == ["3", "1"]
    assert "two labels in each line, of which the first is taken" in splits.notes[0]
    (tmp_path / "t.txt").write_text("train/a b.png,3\ntrain/c.png,1\n")
    assert classes_of(open_source(str(tmp_path / "t.txt")).train) == ["3", "1"]


@pytest.mark.parametrize("label", ["--5", "0_1", "1.5", "+5", "5" * 5000])
def test_lists_whose_labels_are_no_numbers(tmp_path: Path, label: str) -> None:
    write_images(tmp_path, "ok.png")
    (tmp_path / "t.txt").write_text(f"ok.png 1\nok.png {label}\n")
    with pytest.raises(UsageError, match=r"line 2: .*(no label in|is no class n)") as caught:
        open_source(str(tmp_path / "t.txt"))
    assert len(str(caught.value)) < 400


def test_options_for_another_kind(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/1.png", "dog/1.png")
    for option, value in (("image_column", "x"), ("label_column", "x"), ("suffix", ".png"), ("root", "x")):
        with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} is for .*: sources; .* is none of these"):
            open_source(str(tmp_path), **{option: value})


def test_ten_million_rows_are_not_gone_through_one_by_one(tmp_path: Path) -> None:
    """A twentieth of them, in a time that a loop of Python would need for the loop alone."""
    import time

    write_images(tmp_path, "a/0.png")
    count = 500_000
    (tmp_path / "t.csv").write_text("image,label\n" + "".join(f"a/{i}.png,class {i % 1000}\n" for i in range(count)))
    start = time.process_time()
    splits = open_source(str(tmp_path / "t.csv"))
    assert time.process_time() - start < 4
    assert sizes(splits) == {"train": count}
    assert splits.train.key(count - 1) == f"a/{count - 1}.png"


# which column, which row


def table(tmp_path: Path, text: str, name: str = "t.csv") -> str:
    write_images(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_two_columns_that_could_be_the_labels(tmp_path: Path) -> None:
    same = table(tmp_path, "image,label,class\na.png,0,cat\nb.png,1,dog\nc.png,0,cat\n")
    splits = open_source(same)
    assert splits.train.class_names == ("0", "1")
    assert "the columns 'label' and 'class' make the same classes; 'label' is taken" in splits.notes[0]
    other = table(tmp_path, "image,label,class\na.png,0,cat\nb.png,1,cat\nc.png,0,cat\n")
    with pytest.raises(
        UsageError, match=r"'label' and 'class' could both hold the labels, and differ.*--label-column 'label' or"
    ):
        open_source(other)
    assert open_source(other, label_column="label").train.class_names == ("0", "1")
    write_parquet(tmp_path / "t.parquet", [0, 1, 1], category=["x", "x", "y"])
    with pytest.raises(UsageError, match="'label' and 'category' could both hold the labels"):
        open_source(str(tmp_path / "t.parquet"))
    assert open_source(str(tmp_path / "t.parquet"), label_column="category").train.class_names == ("x", "y")


@pytest.mark.parametrize(
    ("name", "form"), [("t.csv", "image,label\n{}.png,{}\n{}.png,{}\n{}.png,{}\n"), ("t.txt", "{}.png {}\n\n" * 3)]
)
def test_images_that_are_named_twice(tmp_path: Path, name: str, form: str) -> None:
    row = "line 4" if name == "t.csv" else "line 5"
    splits = open_source(table(tmp_path, form.format("a", 1, "b", 0, "a", 1), name))
    assert f"1 rows name an image that another row names too ({row})" in splits.notes[0]
    with pytest.raises(
        UsageError, match=rf"1 images are named again with another label, a.png \({row}\)\. Multi-label"
    ):
        open_source(table(tmp_path, form.format("a", 1, "b", 0, "a", 0), name))


@pytest.mark.parametrize("name", ["t.csv", "t.txt"])
def test_a_carriage_return_alone(tmp_path: Path, name: str) -> None:
    row = "{}.png,{}" if name == "t.csv" else "{}.png {}"
    path = Path(table(tmp_path, "", name))
    path.write_bytes(f"image,label\n{row}\r{row}\n".format("a", 0, "b", 1).encode())
    with pytest.raises(UsageError, match="line 2: a carriage return without a line feed"):
        open_source(str(path))
    path.write_bytes(
        (f"{row}\r\n" * 2).format("a", 0, "b", 1).encode()
        if name == "t.txt"
        else f"image,label\r\n{row}\r\n".format("a", 0).encode()
    )
    assert len(open_source(str(path)).train) in (1, 2)


def test_two_numbers_behind_a_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two labels in each line"):
        open_source(table(tmp_path, "a.png 0 3\nb.png 1 3\n", "t.txt"))
