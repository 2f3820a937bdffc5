"""Nothing leaves this machine by accident."""

import pytest

from robot.recording import dataset
from robot.recording.hub import HubError, main, plan, push


class Api:
    def __init__(self):
        self.calls = []

    def create_repo(self, repo_id, **options):
        self.calls.append(("create", repo_id, options["private"]))
        self.kind = options["repo_type"]

    def upload_folder(self, **options):
        self.calls.append(("upload", options["repo_id"], options["allow_patterns"]))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "JOURNALS", tmp_path)
    root = tmp_path / "pick" / "lerobot"
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text("{}")
    (root / "data.parquet").write_bytes(b"PAR1")
    return root


def run(*words):
    api, said = Api(), []
    code = main(["dataset=pick", "repo=me/pick", *words], said.append, lambda: api)
    return code, api.calls, "".join(said)


def test_a_push_is_a_dry_run_until_told_otherwise(root):
    code, calls, said = run()
    assert (code, calls) == (0, [])
    assert "meta/info.json" in said
    assert "2 files, 6 bytes, to the private dataset me/pick: would be pushed" in said


def test_a_push_is_private_and_sends_what_was_listed(root):
    code, calls, _ = run("really=yes")
    assert code == 0
    assert calls == [
        ("create", "me/pick", True),
        ("upload", "me/pick", ["data.parquet", "meta/info.json"]),
    ]


@pytest.mark.parametrize(
    ("secret", "what"),
    [
        ("hf_" + "a" * 34, "a Hugging Face token"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("https://me:geheim99@example.org", "a password in an address"),
    ],
)
def test_a_secret_is_not_pushed(root, secret, what):
    (root / "meta" / "tasks.json").write_text(f'{{"goal": "{secret}"}}')
    api = Api()
    with pytest.raises(HubError, match=f"meta/tasks.json holds {what}"):
        push(api, root, "me/pick", private=True, really=True)
    assert api.calls == []


def test_stray_files_and_links_are_not_pushed(root):
    (root / ".env").write_text("")
    (root / "data.mp4").symlink_to("/etc/passwd")
    assert len(plan(root).objections) == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [(["repo=pick"], 2), (["do=pull"], 2), (["dataset=../x"], 2), (["dataset=none"], 1)],
)
def test_what_cannot_be_pushed_is_said_in_one_line(root, words, code, capsys):
    assert run(*words)[0] == code
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture
def policy(tmp_path):
    policy = tmp_path / "clone"
    (policy / "tensorboard").mkdir(parents=True)
    (policy / "tensorboard" / "events.host").write_text("")
    (policy / "README.md").write_text("# clone")
    (policy / "policy.safetensors").write_bytes(b"weights")
    return policy


def pushed(policy, *words):
    api, said = Api(), []
    code = main([f"policy={policy}", "repo=me/clone", *words], said.append, lambda: api)
    return code, api, "".join(said)


def test_a_policy_is_pushed_as_a_model_without_what_tells_of_the_machine(policy):
    code, api, said = pushed(policy)
    assert (code, api.calls) == (0, [])
    assert "2 files, 14 bytes, to the private model me/clone: would be pushed" in said
    code, api, _ = pushed(policy, "really=yes")
    assert (code, api.kind) == (0, "model")
    assert api.calls[1] == ("upload", "me/clone", ["README.md", "policy.safetensors"])


def test_a_policy_without_a_page_or_with_a_secret_is_not_pushed(policy, capsys):
    (policy / "pretrain.json").write_text(f'{{"command": "hf_{"a" * 34}"}}')
    assert pushed(policy, "really=yes")[1].calls == []
    assert "pretrain.json holds a Hugging Face token" in capsys.readouterr().err
    (policy / "README.md").unlink()
    assert pushed(policy, "really=yes")[0] == 1
    assert "has no README.md" in capsys.readouterr().err


def test_a_policy_and_a_dataset_are_two_pushes(policy, capsys):
    assert pushed(policy, "dataset=pick")[0] == 2
    assert "give one of them" in capsys.readouterr().err
