"""What labs share: their device, and numbers stored for the prose."""

import pytest
import torch

from fmtutorial.labs import default_device, record, stored_results


@pytest.mark.parametrize("available, kind", [(True, "cuda"), (False, "cpu")])
def test_device_is_the_gpu_where_there_is_one(monkeypatch, available, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert default_device() == torch.device(kind)


@pytest.mark.parametrize("value, text", [(0.25, "0.25"), ("about 3", "'about 3'")])
def test_record_stores_a_value_under_its_name_and_shows_nothing(monkeypatch, value, text):
    """In the form of myst-nb's glue: a mime type no front end draws, and the name beside it."""
    shown = []
    monkeypatch.setattr(
        "IPython.display.display", lambda *data, **options: shown.append((data, options))
    )
    record("error", value)
    (((bundle,), options),) = shown
    assert bundle == {"application/papermill.record/text/plain": text}
    assert options["raw"] is True
    assert options["metadata"] == {
        "scrapbook": {"name": "error", "mime_prefix": "application/papermill.record/"}
    }


def test_stored_results_come_from_the_package(monkeypatch, tmp_path):
    """From results/NAME.json of the installed package, wherever that is; in UTF-8."""
    folder = tmp_path / "fmtutorial" / "results"
    folder.mkdir(parents=True)
    text = '{"W₂": [1.5, 2], "provenance": {"seeds": [0, 1, 2]}}'
    (folder / "some-name.json").write_bytes(text.encode())
    monkeypatch.setattr("fmtutorial.labs.resources.files", lambda package: tmp_path / package)
    assert stored_results("some-name") == {"W₂": [1.5, 2], "provenance": {"seeds": [0, 1, 2]}}
    with pytest.raises(FileNotFoundError, match="other-name.json"):
        stored_results("other-name")


def test_results_of_no_experiment_are_not_found():
    with pytest.raises(FileNotFoundError, match="no-such-experiment.json"):
        stored_results("no-such-experiment")
