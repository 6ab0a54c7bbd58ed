import re
import stat
import subprocess
from pathlib import Path

import pytest
from labelstudio_fixtures import Proxy, boxed, free_port, make_dataset, submit, tasks_of

from annotate.errors import LostResponse, StudioError
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.pull import pull_dataset
from annotate.labelstudio.push import push_dataset
from annotate.labelstudio.server import connect

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio]


@pytest.fixture(scope="module")
def personal_token(label_studio):
    """Create a personal access token as a person does: log in, press the button."""
    import httpx

    with httpx.Client(base_url=label_studio.url, trust_env=False) as browser:
        browser.get("/user/login/")
        form = {"email": label_studio.email, "password": label_studio.password}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        headers = {"Referer": label_studio.url}
        assert browser.post("/user/login/", data=form, headers=headers).status_code == 302
        headers["X-CSRFToken"] = browser.cookies["csrftoken"]
        created = browser.post("/api/token/", headers=headers)
        yield created.json()["token"]
        refresh = {"refresh": created.json()["token"]}
        browser.post("/api/token/blacklist/", json=refresh, headers=headers)


def test_a_legacy_token_is_accepted(label_studio, server):
    assert server.token_kind == "legacy"
    assert server.current_user()["email"] == label_studio.email


def test_a_personal_token_is_accepted_until_it_is_revoked(label_studio, personal_token, tmp_path):
    dataset = make_dataset(tmp_path / "personal", [[boxed()]])
    with StudioClient(label_studio.url, personal_token, label_studio.document_root) as server:
        assert server.token_kind == "personal"
        assert server.current_user()["email"] == label_studio.email
        project = push_dataset(dataset, server).project.id
        submit(server, next(iter(tasks_of(server, project).values()))[0]["id"])
        assert pull_dataset(dataset, server, tmp_path / "out").frame_counts == {"submitted": 1}
        server.send("POST", "/api/token/blacklist/", {"refresh": personal_token})
    refused = pytest.raises(StudioError, match="the token is refused: .*blacklisted")
    with StudioClient(label_studio.url, personal_token) as server, refused:
        server.current_user()


def expired():
    """Make a personal token that expired in 2001."""
    import jwt

    return jwt.encode({"token_type": "refresh", "exp": 1_000_000_000}, "k" * 32)


@pytest.mark.parametrize(
    "token, message",
    [
        (lambda: "0" * 40, "the token is refused: Invalid token"),
        (expired, "the token is refused: .*expired"),
        (lambda: "", "the token is empty"),
        (lambda: "two words", "the token is empty, or has characters"),
    ],
    ids=["bad", "expired", "none", "words"],
)
def test_a_refused_token_is_named_without_headers(label_studio, token, message):
    raises = pytest.raises(StudioError, match=message)
    with raises as refused, StudioClient(label_studio.url, token()) as server:
        server.current_user()
    assert "cookie" not in str(refused.value).lower() and "headers" not in str(refused.value)


def test_a_server_that_does_not_answer_is_an_error():
    raises = pytest.raises(StudioError, match="no Label Studio answers there .*annotate studio up")
    with raises, StudioClient(f"http://127.0.0.1:{free_port()}", "0" * 40) as server:
        server.current_user()


def test_a_lost_get_is_sent_again(label_studio):
    """The response is lost twice. A POST is not sent again: see test_push."""

    def lose(when, number):
        return "drop" if when == "after" and number < 3 else None

    with (
        Proxy(label_studio.url, "/whoami", lose, method="GET") as proxy,
        StudioClient(proxy.url, label_studio.token) as server,
    ):
        assert server.current_user()["email"] == label_studio.email
        assert proxy.count == 3


def test_a_html_response_becomes_one_line(server):
    with pytest.raises(StudioError) as refused:
        server.get("/api/no/such/thing")
    assert "404" in str(refused.value) and "<" not in str(refused.value)


def test_a_refusal_becomes_one_line_without_headers(server):
    with pytest.raises(StudioError) as refused:
        server.send("POST", "/api/projects/", {"title": "abc", "label_config": "<View>"})
    assert re.search("/api/projects/: 400: .*label_config", str(refused.value))
    assert "cookie" not in str(refused.value).lower() and "\n" not in str(refused.value)


def test_nan_is_refused_before_sending(server):
    with pytest.raises(ValueError, match="Out of range float"):
        server.send("POST", "/api/projects/", {"title": float("nan")})


def test_the_local_server_is_closed_to_other_users(label_studio):
    import httpx

    with httpx.Client(base_url=label_studio.url, trust_env=False) as stranger:
        stranger.get("/user/signup/")
        form = {"email": "a@b.cd", "password": "longenough1"}
        form["csrfmiddlewaretoken"] = stranger.cookies["csrftoken"]
        headers = {"Referer": label_studio.url}
        assert stranger.post("/user/signup/", data=form, headers=headers).status_code == 403
        assert stranger.get("/api/projects/").status_code == 401
    with label_studio.client() as server, pytest.raises(StudioError):
        server.fetch("/data/local-files/?d=../login.json")
    assert stat.S_IMODE(label_studio.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((label_studio.data_dir / "login.json").stat().st_mode) == 0o600
    args = subprocess.run(
        ["ps", "-ww", "-p", str(label_studio.pid), "-o", "args="], capture_output=True, text=True
    ).stdout
    assert "--internal-host 127.0.0.1" in args
    assert label_studio.token not in args and label_studio.password not in args


def test_up_starts_one_server_and_down_keeps_its_data(program, monkeypatch, annotate, tmp_path):
    """`push`, `pull` and `studio doctor` find the running server."""
    import shutil

    from labelstudio_fixtures import migrated

    shutil.copytree(migrated(program), tmp_path / "data")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("LABEL_STUDIO_BIN", str(program))
    code, url, err = annotate("studio", "up", "--data", tmp_path / "data")
    try:
        assert code == 0 and "log in as me@localhost.localdomain with the password" in err
        state_file = tmp_path / "share/annotate/studio.json"
        assert stat.S_IMODE(state_file.stat().st_mode) == 0o600
        assert annotate("studio", "up", "--data", tmp_path / "data")[:2] == (0, url)
        code, _, err = annotate("studio", "up", "--data", tmp_path / "elsewhere")
        assert code == 1 and "already runs at" in err
        make_dataset(tmp_path / "frames", [[boxed()], []])
        code, out, _ = annotate("push", tmp_path / "frames")
        assert code == 0 and out.startswith("frames\tcount\nnew\t2\n" + url.strip())
        code, _, err = annotate("pull", tmp_path / "frames", "-o", tmp_path / "out")
        assert code == 1 and "nothing of project" in err
        with connect() as server:
            for [task] in tasks_of(server, server.find_project("frames").id).values():
                submit(server, task["id"])
        code, out, _ = annotate("pull", tmp_path / "frames", "-o", tmp_path / "out")
        assert (code, out.splitlines()[1]) == (0, "submitted\t2")
        code, out, _ = annotate(
            "pull", tmp_path / "frames", "-o", tmp_path / "out", "--since", "last"
        )
        assert code == 0
        code, out, _ = annotate("pull", "--project", "frames", "-o", tmp_path / "out", "--force")
        assert code == 0  # the dataset of the project was recorded
        code, out, _ = annotate("diff", tmp_path / "frames", tmp_path / "out")
        assert code == 0 and out.splitlines()[1].startswith("mech\tcolour\t1\t0")
        code, out, _ = annotate("studio", "doctor", tmp_path / "frames")
        assert code == 0 and all(line.endswith("ok") for line in out.splitlines()[1:])
    finally:
        code, out, _ = annotate("studio", "down")
    assert (code, Path(out.strip())) == (0, tmp_path / "data")
    code, _, err = annotate("studio", "down")
    assert code == 1 and "no local Label Studio is running" in err
    code, _, err = annotate("push", tmp_path / "frames")
    assert code == 1 and "annotate studio up" in err


def test_a_lost_response_has_its_own_error():
    assert issubclass(LostResponse, StudioError)
