from annotate import errors
from annotate.cli import app


def test_each_part_has_a_state_and_a_cure_where_it_needs_one():
    rows = app.check_installation()
    assert ("detector colour", "ok", "") in rows and ("engine light", "ok", "") in rows
    for part, state, cure in rows:
        assert state == "ok" or cure, f"{part}: {state} without a cure"


def test_a_missing_extra_names_its_command(monkeypatch):
    monkeypatch.setattr(errors, "EXTRAS", {})
    monkeypatch.setattr(app, "EXTRAS", {"no_such_package_at_all": "nothing"})
    cure = "pip install 'annotate-local[nothing]'"
    assert ("no_such_package_at_all", "missing", cure) in app.check_installation()


def test_two_opencvs_are_a_clash(monkeypatch):
    both = {"cv2": ["opencv-python", "opencv-python-headless"]}
    monkeypatch.setattr(app.metadata, "packages_distributions", lambda: both)
    [row] = [row for row in app.check_installation() if row[0].startswith("cv2")]
    assert row[1] == "clash" and row[2].startswith("pip uninstall -y opencv-python ")
