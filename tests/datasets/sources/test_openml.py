"""Images from a server of our own in OpenML's format: JSON and ARFF, whole, damaged, and not there at all."""

import dataclasses
import gzip
import hashlib
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from odegrad.datasets.sources import openml
from odegrad.datasets.sources.files import FOLDER_VARIABLE
from odegrad.datasets.sources.openml import ImageTable, images_of_rows
from odegrad.errors import DataError

Served = tuple[Path, str, list[str]]
ROWS, TRAIN_ROWS = 40, 30
GREY = dataclasses.replace(openml.MNIST, rows=ROWS, train_rows=TRAIN_ROWS, side=4, validation_rows=10)
COLOUR = dataclasses.replace(openml.CIFAR10, rows=ROWS, train_rows=TRAIN_ROWS, side=8, validation_rows=10)
LABELS = np.arange(ROWS) % 10


def smooth(table: ImageTable) -> np.ndarray:
    """Return images ``[rows, channels, side, side]`` whose neighbours are alike."""
    draw = np.random.default_rng(0)
    slope = draw.uniform(-1.0, 1.0, (2, table.rows, table.channels, 1, 1))
    place = np.linspace(-60.0, 60.0, table.side)
    ramp = slope[0] * place[:, None] + slope[1] * place
    images: np.ndarray = np.clip(128 + ramp + draw.integers(-3, 4, ramp.shape), 0, 255).astype(np.uint8)
    return images


def arff(rows: np.ndarray, labels: np.ndarray, target_first: bool) -> bytes:
    """Return the table as OpenML writes it."""
    pixels = [f"@ATTRIBUTE pixel{i + 1} REAL" for i in range(rows.shape[1])]
    target = "@ATTRIBUTE class {" + ",".join(map(str, sorted(set(labels.tolist())))) + "}"
    head = [target, *pixels] if target_first else [*pixels, target]
    lines = []
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        lines.append(",".join(map(str, [label, *row] if target_first else [*row, label])))
    return "\n".join(["% made for a test", "@RELATION images", "", *head, "", "@DATA", *lines, ""]).encode()


def publish(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    table: ImageTable,
    rows: np.ndarray,
    labels: np.ndarray = LABELS,
    target_first: bool = False,
) -> Path:
    """Serve the table as OpenML does; return the file of its data, which is served compressed."""
    root, address, _ = served
    content = arff(rows, labels, target_first)
    path = root / f"data/v1/download/{table.data_id}/{table.name}.arff"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(content))
    plain = {"is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
    features = [
        {"name": f"pixel{i + 1}", "data_type": "numeric", "is_target": "false", **plain} for i in range(rows.shape[1])
    ]
    features.insert(
        0 if target_first else len(features), {"name": "class", "data_type": "nominal", "is_target": "true", **plain}
    )
    answers = {
        f"{table.data_id}": {
            "data_set_description": {
                "id": str(table.data_id),
                "name": table.name,
                "version": "1",
                "description": "made for a test",
                "format": "ARFF",
                "status": "active",
                "url": f"{address}/data/v1/download/{table.data_id}/{table.name}.arff",
                "md5_checksum": hashlib.md5(content, usedforsecurity=False).hexdigest(),
            }
        },
        f"features/{table.data_id}": {"data_features": {"feature": features}},
        f"qualities/{table.data_id}": {
            "data_qualities": {"quality": [{"name": "NumberOfInstances", "value": f"{len(rows)}.0"}]}
        },
    }
    for name, answer in answers.items():
        place = root / "api/v1/json/data" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(answer), encoding="utf-8")
    ask_at(address, monkeypatch)
    return path


def ask_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scikit-learn ask ``address`` instead of OpenML, without waiting between two tries."""
    for name, place in (("_DATA_INFO", ""), ("_DATA_FEATURES", "features/"), ("_DATA_QUALITIES", "qualities/")):
        monkeypatch.setattr(f"sklearn.datasets._openml.{name}", f"{address}/api/v1/json/data/{place}{{}}")
    monkeypatch.setattr("sklearn.datasets._openml.time", SimpleNamespace(sleep=lambda _: None))


@pytest.mark.parametrize("target_first", [False, True])
def test_values_and_labels_are_those_of_the_file(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch, target_first: bool
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (ROWS, 1, 4, 4))
    images[0, 0, 0, :2] = 0, 255
    publish(served, monkeypatch, GREY, images.reshape(ROWS, -1), target_first=target_first)
    found = GREY.read()
    assert found.pixels.dtype == np.uint8
    np.testing.assert_array_equal(found.pixels, images)
    np.testing.assert_array_equal(found.labels, LABELS)


def test_labels_count_from_nought_in_the_order_of_their_numbers(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SVHN's go from 1 to 10, and 10 comes last, not behind 1."""
    publish(served, monkeypatch, GREY, smooth(GREY).reshape(ROWS, -1), labels=LABELS + 1)
    np.testing.assert_array_equal(GREY.read().labels, LABELS)


def test_a_second_read_makes_no_request_and_gives_the_same(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(served, monkeypatch, GREY, smooth(GREY).reshape(ROWS, -1))
    first, count = GREY.read(), len(served[2])
    assert count == 4
    second = GREY.read()
    assert len(served[2]) == count
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.labels, second.labels)
    line = (folder / "openml" / "mnist_784.npz.sha256").read_text(encoding="utf-8")
    digest = hashlib.sha256((folder / "openml" / "mnist_784.npz").read_bytes()).hexdigest()
    assert line == f"{digest}  mnist_784.npz\n"


@pytest.mark.parametrize("layout", ["planes", "pixels"])
def test_colours_come_out_as_planes_whatever_the_layout(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    images = smooth(COLOUR)
    stored = images if layout == "planes" else images.transpose(0, 2, 3, 1)
    publish(served, monkeypatch, COLOUR, stored.reshape(ROWS, -1))
    np.testing.assert_array_equal(COLOUR.read().pixels, images)


def test_noise_does_not_tell_its_layout() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 3 * 64), dtype=np.uint8)
    with pytest.raises(DataError, match=r"CIFAR_10: expected colours in planes or pixel by pixel, got rows of which"):
        images_of_rows(noise, 3, 8, "CIFAR_10")


def test_another_content_than_described_is_refused(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(served, monkeypatch, GREY, smooth(GREY).reshape(ROWS, -1))
    path.write_bytes(gzip.compress(arff(smooth(GREY).reshape(ROWS, -1)[::-1], LABELS, False)))
    with pytest.raises(DataError, match=r"mnist_784: what came from https.*/554 is not what .*md5 checksum") as caught:
        GREY.read()
    assert "place mnist_784.npz and mnist_784.npz.sha256" in str(caught.value)
    assert not list((folder / "openml").glob("*.npz*"))


def test_a_truncated_download_is_refused_and_the_next_try_is_fresh(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(served, monkeypatch, GREY, smooth(GREY).reshape(ROWS, -1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(DataError, match=r"mnist_784: what came .* is not what OpenML says of it .*cut short"):
        GREY.read()
    path.write_bytes(whole)
    np.testing.assert_array_equal(GREY.read().pixels, smooth(GREY))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ROWS + 1}, r"expected 41 rows, got 40"),
        ({"side": 5}, r"expected 25 pixels and 1 target in a row, got 16 and 1"),
        ({"classes": 9}, r"expected 9 classes, got 10"),
    ],
)
def test_a_table_of_another_size_is_refused(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], message: str
) -> None:
    publish(served, monkeypatch, GREY, smooth(GREY).reshape(ROWS, -1))
    with pytest.raises(DataError, match=r"mnist_784, OpenML's data set 554: " + message):
        dataclasses.replace(GREY, **changes).read()  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["256", "-1", "0.5", "?"])
def test_pixels_that_are_no_bytes_are_refused(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    rows = smooth(GREY).reshape(ROWS, -1).astype(object)
    rows[3, 5] = value
    publish(served, monkeypatch, GREY, rows)
    with pytest.raises(DataError, match=r"expected whole numbers from 0 to 255, got pixels from"):
        GREY.read()


def test_no_network_says_where_to_place_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(DataError, match=r"^mnist_784: not in .* and not fetched from https://www.openml.org/d/554"):
        GREY.read()
    with pytest.raises(DataError, match=r"place mnist_784.npz and mnist_784.npz.sha256, which .*, in ") as caught:
        GREY.read()
    message = str(caught.value)
    assert str(folder / "openml") in message
    assert FOLDER_VARIABLE in message
    assert message.endswith("odegrad list tasks says which tasks work offline")


def test_files_placed_by_hand_need_no_network(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(served, monkeypatch, GREY, smooth(GREY).reshape(ROWS, -1))
    GREY.read()
    elsewhere = tmp_path / "elsewhere" / "openml"
    elsewhere.mkdir(parents=True)
    for path in (folder / "openml").glob("mnist_784.npz*"):
        path.rename(elsewhere / path.name)
    monkeypatch.setenv(FOLDER_VARIABLE, str(elsewhere.parent))
    ask_at("http://127.0.0.1:9", monkeypatch)
    np.testing.assert_array_equal(GREY.read().pixels, smooth(GREY))


@pytest.mark.parametrize("damage", ["bytes", "no hash"])
def test_a_damaged_file_is_kept_aside_and_made_again(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    publish(served, monkeypatch, GREY, smooth(GREY).reshape(ROWS, -1))
    GREY.read()
    path = folder / "openml" / "mnist_784.npz"
    if damage == "bytes":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.with_name("mnist_784.npz.sha256").unlink()
    before = path.read_bytes()
    np.testing.assert_array_equal(GREY.read().pixels, smooth(GREY))
    (aside,) = (folder / "openml").glob("mnist_784.npz.damaged-*")
    assert aside.read_bytes() == before
    assert path.exists()


def test_images_of_another_shape_placed_by_hand_are_refused(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(served, monkeypatch, GREY, smooth(GREY).reshape(ROWS, -1))
    GREY.read()
    with pytest.raises(DataError, match=r"expected pixels \(39, 1, 4, 4\) of bytes in .*, got \(40, 1, 4, 4\)"):
        dataclasses.replace(GREY, rows=39).read()


def test_many_at_a_time_fetch_once(folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(served, monkeypatch, GREY, smooth(GREY).reshape(ROWS, -1))
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(GREY.read().pixels)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served[2]) == 4
    assert len(found) == 6
    for pixels in found:
        np.testing.assert_array_equal(pixels, smooth(GREY))
