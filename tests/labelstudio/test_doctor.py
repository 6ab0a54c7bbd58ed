import pytest
from labelstudio_fixtures import boxed, make_dataset

from annotate.labelstudio import doctor
from annotate.labelstudio.push import push_dataset

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio]


def cures(server, dataset, project):
    return {c.subject: c.cure for c in doctor.run_checks(server, dataset, project) if c.cure}


def test_each_problem_has_its_own_cure(server, label_studio, tmp_path):
    dataset = make_dataset(tmp_path / "faulty", [[boxed()]])
    assert cures(server, dataset, "faulty") == {"project": "`annotate push` creates it"}
    project = push_dataset(dataset, server, project="faulty").project
    assert cures(server, dataset, "faulty") == {}

    folder = label_studio.document_root / f"project-{project.id}"
    [picture] = folder.iterdir()
    picture.rename(tmp_path / "away.png")
    assert "put the file back" in cures(server, dataset, "faulty")["first task"]
    picture.write_bytes(b"not a picture")
    assert "put the file back" in cures(server, dataset, "faulty")["first task"]
    picture.unlink()
    picture.symlink_to(tmp_path / "away.png")
    assert cures(server, dataset, "faulty")["document root"].startswith(f"remove {picture}")
    picture.unlink()
    (tmp_path / "away.png").rename(picture)

    label_studio.data_dir.chmod(0o755)
    assert cures(server, dataset, "faulty") == {
        "document root": f"chmod 700 {label_studio.data_dir}"
    }
    label_studio.data_dir.chmod(0o700)
    grown = make_dataset(tmp_path / "grown", [[boxed()]], classes=("mech", "drone"))
    assert cures(server, grown, "faulty") == {"labelling config": "`annotate push` adds drone"}
    broken = project.config.replace('name="box"', 'name="kasten"')
    server.send("PATCH", f"/api/projects/{project.id}/", {"label_config": broken})
    assert 'no <RectangleLabels name="box">' in cures(server, dataset, "faulty")["labelling config"]
