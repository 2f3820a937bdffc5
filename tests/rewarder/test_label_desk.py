import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarder.clip_set import BadSet, freeze, open_set
from rewarder.label_desk import AnswerBody, create_app
from rewarder.pairs import newest, read_pairs
from robot.access import RefusedError
from tests.rewarder.label_sets import MOMENTS, RATERS, make_desk, open_desk
from tests.rl.live import served


@pytest.fixture
def desk(tmp_path):
    return make_desk(tmp_path)


def answer(desk, rater="anna", **said):
    item = desk.next(rater)
    desk.answer(AnswerBody(rater=rater, item=item.key, **said))
    return item


def finish(desk, rater="anna"):
    """Answer everything; return the items in order."""
    items = []
    while (item := desk.next(rater)) is not None:
        said = {"success": True} if item.pair is None else {"better": "left"}
        items.append(answer(desk, rater, **said))
    return items


def test_hard_clips_come_first_then_pairs_then_a_second_look(desk, tmp_path):
    items = finish(desk)
    ranks = {name: c.origin["rank"] for name, c in open_set(tmp_path / "set").clips.items()}
    assert [ranks[item.clips[0]] for item in items[:5]] == [0, 1, 2, 3, 4]
    assert [item.pair is not None for item in items] == [False] * 5 + [True] * 2 + [False]
    assert [item.pass_number for item in items] == [1] * 7 + [2]
    assert desk.progress("anna") == (8, 8)


def test_an_answer_is_on_the_disk_when_it_counts(desk, tmp_path):
    item = answer(desk, success=False, stars=2)
    label = open_set(tmp_path / "set").labels("anna")[item.clips[0]]
    assert (label.success, label.stars, label.pass_number) == (False, 2, 1)
    assert desk.progress("anna")[0] == 1


def test_raters_do_not_share_answers(desk, tmp_path):
    answer(desk, success=True)
    assert desk.progress("ben") == (0, 8)
    assert open_set(tmp_path / "set").labels("ben") == {}


def test_a_desk_that_is_opened_again_goes_on_where_it_was(desk, tmp_path):
    for _ in range(6):
        said = {"better": "tie"} if desk.next("anna").pair else {"success": True}
        answer(desk, **said)
    later = open_desk(tmp_path)
    assert later.next("anna") == desk.next("anna")
    assert later.progress("anna") == (6, 8)


def test_what_was_passed_over_is_asked_again_when_the_desk_is_opened_again(desk, tmp_path):
    item = answer(desk)
    assert desk.next("anna") != item
    assert open_desk(tmp_path).next("anna") == item
    assert open_set(tmp_path / "set").truth("anna") == {}


def test_a_pairs_side_is_drawn_and_its_label_is_by_the_clip_not_by_the_side(tmp_path):
    make_desk(tmp_path, clips=20, pairs=19)
    desk = open_desk(tmp_path, pairs=19)
    by_episode = {c.origin["episode"]: n for n, c in open_set(tmp_path / "set").clips.items()}
    items = [item for item in finish(desk) if item.pair]
    labels = newest(read_pairs(tmp_path / "pairs.jsonl"))
    turned = [by_episode[item.pair.first] != item.clips[0] for item in items]
    assert 0 < sum(turned) < len(turned)
    assert [label.preferred for label in labels] == [
        "second" if side else "first" for side in turned
    ]
    assert {(label.by, label.person) for label in labels} == {("anna", True)}


def test_the_second_look_is_in_another_order_for_each_rater(tmp_path):
    desk = make_desk(tmp_path, clips=40, pairs=0)
    looks = {
        rater: [item.clips[0] for item in finish(desk, rater) if item.pass_number == 2]
        for rater in RATERS
    }
    assert {len(found) for found in looks.values()} == {8}
    assert looks["anna"] != looks["ben"]


def test_nothing_shown_says_what_anybody_thinks(desk):
    shown = desk.shown(desk.next("anna"))
    assert shown.keys() == {"item", "kind", "goal", "clips"}
    assert "rewarded" not in str(shown)


def test_undo_takes_back_one_answer_after_the_other(desk, tmp_path):
    first, second = answer(desk, success=True), answer(desk, success=False)
    desk.undo("anna")
    assert desk.next("anna") == second
    desk.undo("anna")
    assert desk.next("anna") == first
    assert open_set(tmp_path / "set").truth("anna") == {}
    answer(desk, success=False)
    assert desk.next("anna") == second
    with pytest.raises(RefusedError, match="no answer"):
        desk.undo("ben")


def test_undo_of_a_pair_leaves_no_preference(desk, tmp_path):
    for _ in range(5):
        answer(desk, success=True)
    pair = answer(desk, better="right")
    desk.undo("anna")
    assert desk.next("anna") == pair
    assert [label.preferred for label in newest(read_pairs(tmp_path / "pairs.jsonl"))] == [None]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(["yes", "no", "skip", "undo"]), max_size=30))
def test_what_is_asked_is_never_what_is_settled(tmp_path_factory, moves):
    desk = make_desk(tmp_path_factory.mktemp("desk"), clips=3, pairs=0)
    done = []
    for move in moves:
        if move == "undo" and done:
            desk.undo("anna")
            done.pop()
        elif move != "undo" and desk.next("anna"):
            success = {"yes": True, "no": False}.get(move)
            done.append(answer(desk, success=success).key)
        assert desk.progress("anna") == (len(done), 4)
        item = desk.next("anna")
        assert item is None or item.key not in done


@pytest.mark.parametrize(
    ("said", "status", "why"),
    [
        ({"item": "1:0000000000000000"}, 409, "not what is asked"),
        ({"better": "left"}, 422, "of a clip"),
        ({"stars": 4}, 422, "of a clip"),
        ({"rater": "eve", "success": True}, 404, "no such rater"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_and_leaves_nothing(
    desk, tmp_path, said, status, why
):
    whole = {"rater": "anna", "item": desk.next("anna").key, **said}
    with pytest.raises(RefusedError, match=why) as refused:
        desk.answer(AnswerBody(**whole))
    assert refused.value.status == status
    assert open_set(tmp_path / "set").raters == ()


def test_a_frozen_set_takes_no_labels(desk, tmp_path):
    answer(desk, success=True)
    answer(desk, success=False)
    freeze(tmp_path / "set")
    with pytest.raises(BadSet, match="frozen"):
        open_desk(tmp_path)


@pytest.fixture
def client(desk):
    with served(create_app(desk)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def test_the_page_and_its_files_come_from_here_alone(client):
    page = client.get("/")
    assert "How did it go?" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("page.js", "page.css", "icon.svg"):
        assert client.get(f"/page/{name}").status_code == 200
        assert "//" not in page.text.replace("<!doctype", "")
    assert client.get("/page/..%2Flabel_desk.py").status_code == 404


def test_every_picture_of_an_item_can_be_had(client, desk):
    asked = client.get("/next", params={"rater": "anna"}).json()
    [clip] = asked["clips"]
    assert (clip["cameras"], clip["moments"]) == (["front", "side"], MOMENTS)
    for camera in clip["cameras"]:
        for index in range(MOMENTS):
            reply = client.get(f"/clip/{clip['clip']}/{camera}/{index}.jpg")
            assert reply.content.startswith(b"\xff\xd8")
    for wrong in (f"{clip['clip']}/front/3", f"{clip['clip']}/wrist/0", "0000/front/0"):
        assert client.get(f"/clip/{wrong}.jpg").status_code == 404


def test_an_answer_brings_the_next_item(client):
    asked = client.get("/next", params={"rater": "anna"}).json()
    body = {"rater": "anna", "item": asked["item"], "success": True, "stars": 5}
    following = client.post("/answer", json=body).json()
    assert (following["done"], following["of"]) == (1, 8)
    assert following["item"] != asked["item"]
    assert client.post("/answer", json=body).status_code == 409
    assert client.post("/undo", json={"rater": "anna"}).json()["item"] == asked["item"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/answer", {}, 422),
        ("/answer", {"rater": "anna", "item": "x", "success": "yes"}, 422),
        ("/answer", {"rater": "anna", "item": "x", "stars": 6}, 422),
        ("/answer", {"rater": "anna", "item": "x", "more": 1}, 422),
        ("/answer", {"rater": "anna", "item": "x" * 5000}, 413),
        ("/undo", {"rater": 3}, 422),
        ("/undo", {"rater": "eve"}, 404),
    ],
)
def test_bad_bodies_are_refused_with_code_sentence_and_id(client, path, body, status):
    reply = client.post(path, json=body)
    assert reply.status_code == status
    assert reply.json().keys() == {"code", "message", "request_id"}


def test_other_sites_may_not_ask(client):
    reply = client.post("/undo", json={"rater": "anna"}, headers={"Origin": "http://evil.test"})
    assert reply.status_code == 403
