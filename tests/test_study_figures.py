"""The study's figures come with the numbers of their tables, on the page and on the disk."""

import csv

from hmc_fast.evaluation import study_figures


def test_confusion_has_a_row_a_cell():
    drawn = study_figures.confusion([[3, 1], [0, 2]], ("no", "yes"))
    assert drawn.header == ["truth", "predicted", "images", "images_of_truth"]
    assert [row[2:] for row in drawn.rows] == [[3, 4], [1, 4], [0, 2], [2, 2]]
    assert drawn.rows[1][:2] == ["no", "yes"]


def test_curves_have_a_row_an_epoch():
    row = {"fold": 0, "epoch": 1, "train_loss": 0.5, "train_accuracy": 0.6, "test_loss": None}
    drawn = study_figures.curves([{**row, "test_accuracy": None, "seconds": 3}])
    assert drawn.rows == [[0, 1, 0.5, 0.6, None, None]]


def test_save_writes_the_picture_for_print_and_its_numbers(tmp_path):
    drawn = study_figures.confusion([[3, 1], [0, 2]], ("no", "yes"))
    study_figures.save(drawn, tmp_path, "figure_7")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["figure_7.csv", "figure_7.pdf", "figure_7.png"]
    assert (tmp_path / "figure_7.pdf").read_bytes().startswith(b"%PDF")
    with open(tmp_path / "figure_7.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == drawn.header
    assert rows == [[str(cell) for cell in row] for row in drawn.rows]
