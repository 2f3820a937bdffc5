import socket

import httpx
import pytest

from rl.fleet import Snapshot
from rl.learner_client import UPLOADED, Courier, LearnerAway, LearnerClient, not_uploaded
from rl.run_folder import RunFolder
from rl.run_record import BadRun
from rl.service import MAX_BYTES, LearnerService
from robot.journal import Journal, episode_bytes
from tests.rl.practice import fake_episode

GOAL = "Lift it."


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(tmp_path, task="lift", config="", facts={})
    yield folder
    folder.close()


@pytest.fixture
def service(folder):
    service = LearnerService(folder, goal=GOAL)
    yield service
    service.close()


@pytest.fixture
def http(service, port):
    service.serve("127.0.0.1", port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


@pytest.fixture
def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def sealed(**more):
    episode = fake_episode(goal=GOAL, **more)
    return f"{episode.info.episode}.npz", episode_bytes(episode)


def put(http, name, data, arm="arm05"):
    return http.put(f"/episodes/{name}", params={"arm": arm}, content=data)


def test_an_upload_counts_once_however_often_it_is_sent(http, service, folder):
    name, data = sealed()
    assert put(http, name, data).json() == {"new": True}
    assert put(http, name, data).json() == {"new": False}
    found = service.poll(0.0)
    assert [(each.arm, each.name, each.steps) for each in found] == [("arm05", name, 5)]
    assert [path.name for path in folder.episodes()] == [name]
    assert service.status() == {"arm05": "uploads"}


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"name": "x.npz", "data": b"garbage"}, 422),
        ({"name": "other.npz"}, 422),
        ({"arm": "../../etc"}, 422),
        ({"data": b"0" * (MAX_BYTES + 1)}, 413),
    ],
)
def test_what_is_no_episode_is_refused_and_leaves_nothing(http, service, folder, wrong, code):
    name, data = sealed()
    answer = put(http, **{"name": name, "data": data} | wrong)
    assert answer.status_code == code
    assert service.poll(0.0) == []
    assert folder.episodes() == []


def test_an_episode_of_another_goal_is_refused(http):
    episode = fake_episode(goal="Reach it.")
    answer = put(http, f"{episode.info.episode}.npz", episode_bytes(episode))
    assert answer.status_code == 422
    assert "Reach it." in answer.json()["detail"]


def test_a_second_episode_of_one_name_is_refused(http):
    episode = fake_episode(goal=GOAL)
    name = f"{episode.info.episode}.npz"
    put(http, name, episode_bytes(episode))
    longer = fake_episode(goal=GOAL, steps=7)
    object.__setattr__(longer, "info", episode.info)
    assert put(http, name, episode_bytes(longer)).status_code == 409


def test_a_policy_is_sent_once_a_version(http, service):
    assert http.get("/policy.json").status_code == 404
    service.publish(Snapshot(version=7, head=b"head", weights=b"weights"))
    answer = http.get("/policy.safetensors")
    assert (answer.content, answer.headers["etag"]) == (b"weights", '"7"')
    assert http.get("/policy.json", headers={"if-none-match": '"7"'}).status_code == 304


@pytest.mark.parametrize("path", ["/health", "/policy.json", "/policy.safetensors"])
def test_without_the_token_nothing_is_served(service, http, path):
    service._token = "secret"
    assert http.get(path).status_code == 401
    assert http.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert http.get(path, headers={"authorization": "Bearer secret"}).status_code != 401


def test_an_open_door_needs_a_token(service):
    with pytest.raises(BadRun, match="LEARNER_TOKEN"):
        service.serve("0.0.0.0", 0)


def test_a_taken_port_is_named(service):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadRun, match="the port is taken"):
            service.serve("127.0.0.1", taken.getsockname()[1])


def test_an_arm_uploads_over_a_socket_and_gets_policies(service, port, tmp_path):
    service.serve("127.0.0.1", port)
    service.publish(Snapshot(version=3, head=b"head", weights=b"weights"))
    journal = Journal(tmp_path / "journal")
    path = journal.seal(fake_episode(goal=GOAL))
    client = LearnerClient(f"http://127.0.0.1:{port}")
    assert client.goal() == GOAL
    courier = Courier(client, "arm05", first_wait_s=0.01)
    courier.send(path)
    assert [each.name for each in service.poll(10.0)] == [path.name]
    courier.close(patience_s=5.0)
    assert courier.snapshot is not None
    assert courier.snapshot.version == 3
    assert not_uploaded(journal.folder) == []
    client.close()


def test_episodes_wait_for_a_learner_that_is_away(service, port, tmp_path):
    journal = Journal(tmp_path / "journal")
    path = journal.seal(fake_episode(goal=GOAL))
    client = LearnerClient(f"http://127.0.0.1:{port}")
    with pytest.raises(LearnerAway):
        client.goal()
    courier = Courier(client, "arm05", first_wait_s=0.01)
    courier.send(path)
    assert not_uploaded(journal.folder) == [path]
    service.serve("127.0.0.1", port)
    assert [each.name for each in service.poll(10.0)] == [path.name]
    courier.close(patience_s=5.0)
    client.close()


def test_a_refused_episode_is_not_sent_again(service, port, tmp_path):
    service.serve("127.0.0.1", port)
    journal = Journal(tmp_path / "journal")
    courier = Courier(client := LearnerClient(f"http://127.0.0.1:{port}"), "arm05")
    courier.send(journal.seal(fake_episode(goal="Reach it.")))
    courier.close(patience_s=5.0)
    client.close()
    assert (journal.folder / UPLOADED).read_text()
    assert service.poll(0.0) == []
