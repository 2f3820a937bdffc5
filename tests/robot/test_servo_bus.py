import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.emulator.bus_faults import BusFault, BusFaults
from robot.emulator.servo import Register, Servo
from robot.emulator.servo_bus import (
    BROADCAST,
    PING,
    READ,
    SYNC_READ,
    SYNC_WRITE,
    WRITE,
    Packet,
    PacketReader,
    ServoBus,
    frame,
)


def make_bus():
    return ServoBus([Servo(i, mount=0.0, calibration=None) for i in range(1, 7)], BusFaults(0))


@pytest.fixture
def bus():
    return make_bus()


def answers(bus, *request):
    return [reply.data for reply in bus.feed(frame(*request))]


def test_a_ping_is_answered_by_the_servo_it_is_for(bus):
    assert answers(bus, 3, PING) == [frame(3, 0)]


def test_a_ping_to_all_is_answered_by_all(bus):
    assert answers(bus, BROADCAST, PING) == [frame(i, 0) for i in range(1, 7)]


def test_an_unknown_id_is_silent(bus):
    assert answers(bus, 9, PING) == []


def test_a_read_gives_the_bytes_of_the_memory(bus):
    assert answers(bus, 1, READ, bytes([Register.MODEL, 2])) == [frame(1, 0, b"\x09\x03")]


def test_a_sync_read_is_answered_in_the_order_asked(bus):
    found = answers(bus, BROADCAST, SYNC_READ, bytes([Register.ID, 1, 5, 2]))
    assert found == [frame(5, 0, b"\x05"), frame(2, 0, b"\x02")]


def test_a_sync_write_is_silent_and_reaches_each_servo(bus):
    assert answers(bus, BROADCAST, SYNC_WRITE, bytes([42, 2, 1, 7, 0, 4, 9, 1])) == []
    assert [bus.connected[i].get(Register.GOAL_POSITION) for i in (0, 3)] == [7, 0x109]


def test_goals_and_torque_are_told_once_a_request(bus):
    told = []
    bus.on_goals = lambda: told.append(1)
    answers(bus, BROADCAST, SYNC_WRITE, bytes([42, 2, 1, 7, 0, 4, 9, 1]))
    answers(bus, 1, WRITE, bytes([Register.TORQUE_ENABLE, 1]))
    answers(bus, BROADCAST, SYNC_WRITE, bytes([Register.TORQUE_ENABLE, 1, 1, 1, 2, 1]))
    answers(bus, 1, WRITE, bytes([Register.LOCK, 1]))
    assert len(told) == 3


def test_a_change_of_the_id_is_answered_by_the_old_one(bus):
    assert answers(bus, 1, WRITE, bytes([Register.ID, 8])) == [frame(1, 0)]
    assert answers(bus, 8, PING) == [frame(8, 0)]


def test_a_servo_set_to_another_baud_rate_hears_nothing(bus):
    bus.connected[0].store(Register.BAUD, 4, size=1)
    bus.baud = 1_000_000
    assert answers(bus, 1, PING) == []
    bus.baud = 115_200
    assert answers(bus, BROADCAST, PING) == [frame(1, 0)]


def test_prepared_writes_wait_for_the_action(bus):
    answers(bus, 2, 0x04, bytes([Register.GOAL_POSITION, 5, 0]))
    assert bus.connected[1].get(Register.GOAL_POSITION) == 0
    answers(bus, BROADCAST, 0x05)
    assert bus.connected[1].get(Register.GOAL_POSITION) == 5


@given(st.lists(st.sampled_from([frame(2, PING), frame(4, READ, b"\x38\x02")])), st.data())
def test_packets_are_found_however_the_stream_is_cut(packets, data):
    stream = b"".join(packets)
    cut = data.draw(st.integers(0, len(stream)))
    reader = PacketReader()
    found = [*reader.feed(stream[:cut]), *reader.feed(stream[cut:])]
    assert [packet.encode() for packet in found] == packets


@given(st.binary(max_size=40).filter(lambda noise: b"\xff" not in noise))
def test_noise_before_a_packet_is_skipped(noise):
    reader = PacketReader()
    assert list(reader.feed(noise + frame(6, PING))) == [Packet(6, PING, b"")]
    assert reader.skipped == len(noise)


@given(st.integers(16, 55))
def test_a_packet_with_a_flipped_bit_is_never_taken_for_itself(bit):
    sent = frame(2, READ, b"\x38\x02")
    damaged = bytearray(sent)
    damaged[bit // 8] ^= 1 << bit % 8
    found = list(PacketReader().feed(bytes(damaged)))
    assert Packet(2, READ, b"\x38\x02") not in found


@given(st.binary(max_size=300))
def test_no_bytes_break_the_bus(data):
    bus = make_bus()
    bus.feed(data)
    bus.feed(b"\0" * 300)  # whatever a length had promised
    assert frame(3, 0) in answers(bus, 3, PING)


def test_a_cut_cable_silences_the_servos_beyond(bus):
    bus.faults.add(BusFault(kind="cut", servo_id=2))
    assert answers(bus, BROADCAST, PING) == [frame(1, 0), frame(2, 0)]


def test_an_echo_comes_before_the_answer(bus):
    bus.faults.add(BusFault(kind="echo"))
    assert answers(bus, 1, PING) == [frame(1, PING), frame(1, 0)]
