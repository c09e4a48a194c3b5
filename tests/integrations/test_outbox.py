"""Parcels that wait in a folder, and who delivers them."""

import pytest

from fitb_callbacks.integrations.outbox import Outbox


def test_two_may_deliver_the_same_outbox(tmp_path):
    """As when a server comes back: the training's thread sends, and so does `fitb resend`."""
    sent = []

    def send(parcel):
        sent.append((parcel / "number").read_bytes())

    def overtaken(parcel):
        Outbox(tmp_path / "run", send, background=False).deliver_all()
        send(parcel)  # which is not there any more

    late = Outbox(tmp_path / "run", overtaken, background=False)
    waiting = Outbox(tmp_path / "run", refuse, background=False)
    for number in (b"1", b"2"):
        with pytest.raises(ConnectionError):
            waiting.put({"number": number})
    late.deliver_all()
    assert sent == [b"1", b"2"]
    assert not late.waiting()


def refuse(parcel):
    raise ConnectionError("away")


def test_a_parcel_that_is_refused_goes_on_waiting(tmp_path):
    def send(parcel):
        raise ValueError("not this one")

    box = Outbox(tmp_path / "run", send, background=False)
    with pytest.raises(ValueError, match="not this one"):
        box.put({"number": b"1"})
    assert len(box.waiting()) == 1
