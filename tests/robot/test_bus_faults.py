import pytest

from robot.emulator.bus_faults import BusFault, BusFaults, FaultError, Reply
from robot.emulator.servo_bus import PacketReader, frame

STATUS = frame(3, 0, b"\x16\x0c")


@pytest.fixture
def faults():
    return BusFaults(seed=7)


def test_without_faults_a_status_arrives_as_it_is(faults):
    assert faults.shape(3, STATUS) == [Reply(STATUS)]


def test_a_lost_status_does_not_come_and_the_next_one_does(faults):
    faults.add(BusFault(kind="lost", count=1))
    assert [faults.shape(3, STATUS), faults.shape(3, STATUS)] == [[], [Reply(STATUS)]]


def test_a_late_status_says_how_late(faults):
    faults.add(BusFault(kind="late", delay_s=0.08))
    assert faults.shape(3, STATUS) == [Reply(STATUS, 0.08)]


def test_a_doubled_status_comes_twice(faults):
    faults.add(BusFault(kind="duplicated"))
    assert faults.shape(3, STATUS) == [Reply(STATUS)] * 2


def test_a_flipped_bit_spoils_the_checksum(faults):
    faults.add(BusFault(kind="flipped", bit=50))
    (reply,) = faults.shape(3, STATUS)
    assert reply.data != STATUS
    assert list(PacketReader().feed(reply.data)) == []


def test_a_fault_of_one_servo_leaves_the_others_alone(faults):
    faults.add(BusFault(kind="lost", servo_id=3))
    assert faults.shape(4, STATUS) == [Reply(STATUS)]


def test_a_probable_fault_strikes_about_as_often(faults):
    faults.add(BusFault(kind="lost", probability=0.2))
    lost = sum(not faults.shape(3, STATUS) for _ in range(2000))
    assert lost == faults.struck["lost"]
    assert 320 < lost < 480


def test_the_same_seed_strikes_the_same_statuses():
    runs = []
    for _ in range(2):
        faults = BusFaults(seed=3)
        faults.add(BusFault(kind="lost", probability=0.5))
        runs.append([bool(faults.shape(1, STATUS)) for _ in range(50)])
    assert runs[0] == runs[1]


def test_clearing_ends_all_faults(faults):
    faults.add(BusFault(kind="lost"))
    faults.add(BusFault(kind="cut", servo_id=1))
    faults.clear()
    assert (faults.shape(3, STATUS), faults.reached(6)) == ([Reply(STATUS)], 6)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"kind": "melted"}, "unknown fault"),
        ({"kind": "lost", "probability": 0.0}, "probability"),
        ({"kind": "lost", "count": 0}, "count"),
        ({"kind": "late", "delay_s": -1.0}, "delay_s"),
        ({"kind": "cut"}, "servo_id"),
        ({"kind": "lost", "often": 3}, "often"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(fields, why):
    with pytest.raises(FaultError, match=why):
        BusFault.parse(fields)
