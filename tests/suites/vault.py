"""Laws of every vault. A test module gives a `vault` fixture and imports all from here."""

import asyncio

import pytest

from transfer.crypto import signing
from transfer.errors import (
    FormatError,
    FrameMissing,
    ItemBusy,
    PointMissing,
    Refused,
    SessionEnded,
)
from transfer.formats import frame, keyring, point
from transfer.formats.reference import Kind, Reference, encode_references, tag_of
from transfer.vault.base import Missing, Outcome, fetched

SIGNING_KEY = bytes(range(32))
PUBLIC_KEY = signing.public_key_of(SIGNING_KEY)
DOMAIN = signing.domain_id(PUBLIC_KEY)
ITEM, OTHER_ITEM = b"i" * 16, b"j" * 16
OWNER = b"o" * 16
EPOCH, GENERATION = b"epoch-01", 1
DATA, LEAF, PAGE = tag_of(Kind.DATA), tag_of(Kind.STREAM, 1), tag_of(Kind.PAGE)
STORED, EXISTED, REJECTED = Outcome.STORED, Outcome.EXISTED, Outcome.REJECTED


def id_of(number):
    return number.to_bytes(32, "big")


def made_frame(number, tag=DATA, children=(), epoch=EPOCH, payload=None):
    """A frame and its reference; the payload is garbage that no vault looks into."""
    payload = payload if payload is not None else b"%016d" % number * 3
    header = frame.Header(
        tag >> 4, tag & 15, 0, len(children), len(payload), len(payload), epoch, GENERATION,
        b"c" * 16, number, id_of(number),
    )  # fmt: skip
    return Reference(tag, id_of(number)), frame.encode(header, encode_references(children), payload)


def made_keyring(version=1, epochs=(EPOCH,), signing_key=SIGNING_KEY, newest=GENERATION):
    wrap = keyring.Wrap(
        b"the wrap", "passphrase", 1, 65536, 3, 1, bytes(32), bytes(32), bytes(48)
    )  # fmt: skip
    names = [keyring.EpochName(epoch, GENERATION) for epoch in epochs[:-1]]
    names.append(keyring.EpochName(epochs[-1], newest))
    body = keyring.Body(DOMAIN, version, PUBLIC_KEY, names, [wrap], bytes(32), b"sealed with a tag")
    signed = keyring.signed_part(body)
    return signed + signing.sign(signing_key, signed)


def made_point(root, number=1, name=1, item=ITEM, signing_key=SIGNING_KEY, epoch=EPOCH):
    sealed = made_frame(name, tag_of(Kind.POINT), epoch=epoch)[1]
    bare = point.Point(
        DOMAIN, item, number, bytes(32), root, GENERATION, 5, point.Consistency.NONE,
        id_of(2**200 + name), sealed,
    )  # fmt: skip
    return point.encode(bare._replace(signature=signing.sign(signing_key, bare.signed_part)))


async def begun(vault, item=ITEM, owner=b""):
    """A session of a vault that has the domain's keyring."""
    if await vault.keyring(DOMAIN) is None:
        await vault.add_keyring(DOMAIN, 1, made_keyring())
    return (await vault.open_session(DOMAIN, item, owner)).number


def made_tree():
    """Two blocks, a leaf over them and a page over the leaf: references and frames, bottom-up."""
    one, two = made_frame(1), made_frame(2)
    leaf = made_frame(3, LEAF, [one[0], two[0]])
    page = made_frame(4, PAGE, [leaf[0]])
    references, frames = zip(one, two, leaf, page, strict=True)
    return list(references), list(frames)


async def has(vault, session, *references):
    return [
        (await vault.have(session, reference.tag, GENERATION, [reference.id]))[0]
        for reference in references
    ]


async def with_point(vault):
    """A vault with one committed tree; its references and frames."""
    references, frames = made_tree()
    session = await begun(vault)
    await vault.store(session, b"".join(frames))
    await vault.commit(session, made_point(references[-1]))
    return references, frames


async def test_frames_come_back_in_the_order_asked(vault):
    session = await begun(vault)
    made = [made_frame(number) for number in range(1, 6)]
    assert await vault.store(session, b"".join(raw for _, raw in made)) == [STORED] * 5
    unknown = Reference(DATA, id_of(99))
    asked = [made[3][0], unknown, made[0][0], made[3][0]]
    assert await fetched(vault, session, asked) == [made[3][1], None, made[0][1], made[3][1]]
    arrived = []
    await vault.fetch(session, asked, lambda *frame: arrived.append(frame))
    assert sorted(arrived) == sorted([made[3], made[0]])  # each once, however often it was asked


async def test_a_duplicate_exists_within_and_across_calls(vault):
    session = await begun(vault)
    _, raw = made_frame(1)
    assert await vault.store(session, raw + raw) == [STORED, EXISTED]
    assert await vault.store(session, bytearray(raw)) == [EXISTED]
    assert (await vault.statistics())["blocks"] == 1


async def test_nothing_is_stored_when_a_header_is_bad_or_the_last_frame_is_cut(vault):
    session = await begun(vault)
    reference, raw = made_frame(1)
    bad = bytearray(made_frame(2)[1])
    bad[70] ^= 1
    for body in (raw + bytes(bad), raw + raw[:-1]):
        with pytest.raises(FormatError):
            await vault.store(session, body)
    assert await has(vault, session, reference) == [False]


async def test_a_bad_payload_rejects_that_frame_alone(vault):
    session = await begun(vault)
    good, bad = made_frame(1)[1], bytearray(made_frame(2)[1])
    bad[-1] ^= 1
    assert await vault.store(session, bytes(bad) + good) == [REJECTED, STORED]


async def test_frames_and_points_of_an_unknown_epoch_are_refused(vault):
    session = await begun(vault)
    reference, raw = made_frame(1, epoch=b"unheard!")
    assert await vault.store(session, raw) == [REJECTED]
    assert await has(vault, session, reference) == [False]
    with pytest.raises(Refused):
        await vault.commit(session, made_point(None, epoch=b"unheard!"))
    await vault.add_keyring(DOMAIN, 2, made_keyring(2, (EPOCH, b"unheard!")))
    assert await vault.store(session, raw) == [STORED]


async def test_after_a_hard_rotation_no_new_point_is_of_the_old_generation(vault):
    session = await begun(vault)
    old = made_point(None, name=1)
    stored = await vault.commit(session, old)
    session = await begun(vault)
    await vault.add_keyring(DOMAIN, 2, made_keyring(2, (EPOCH, b"epoch-02"), newest=2))
    with pytest.raises(Refused):
        await vault.commit(session, made_point(None, number=2, name=2))
    assert await vault.points(DOMAIN) == [stored]


async def test_a_stream_node_names_only_the_level_below(vault):
    session = await begun(vault)
    block, leaf = made_frame(1), made_frame(2, LEAF, [made_frame(1)[0]])
    upper = tag_of(Kind.STREAM, 2)
    right = made_frame(3, upper, [leaf[0]])
    wrong = [
        made_frame(4, upper, [block[0]]), made_frame(5, LEAF, [leaf[0]]),
        made_frame(6, upper, [leaf[0], block[0]]), made_frame(7, upper, [right[0]]),
    ]  # fmt: skip
    body = b"".join(raw for _, raw in [block, leaf, right, *wrong])
    assert await vault.store(session, body) == [STORED] * 3 + [REJECTED] * 4


async def test_have_says_yes_to_a_node_only_once_it_is_complete(vault):
    session = await begun(vault)
    references, (one, two, leaf, page) = made_tree()
    assert await vault.store(session, one + leaf + page) == [STORED] * 3
    assert await has(vault, session, *references) == [True, False, False, False]
    assert await vault.store(session, two + leaf) == [STORED, EXISTED]
    assert await has(vault, session, *references) == [True, True, True, False]
    assert await vault.have(session, DATA, GENERATION + 1, [references[0].id]) == [False]


async def test_commit_decides_completeness_that_order_left_open(vault):
    session = await begun(vault)
    references, frames = made_tree()
    await vault.store(session, b"".join(reversed(frames)))
    await vault.commit(session, made_point(references[-1]))
    reader = await begun(vault, None)
    assert await has(vault, reader, *references) == [True] * 4


async def test_commit_names_what_is_missing_and_makes_nothing_visible(vault):
    session = await begun(vault)
    references, (one, _, leaf, page) = made_tree()
    await vault.store(session, one + leaf + page)
    with pytest.raises(FrameMissing) as caught:
        await vault.commit(session, made_point(references[-1]))
    assert isinstance(caught.value, Missing)
    assert (caught.value.references, caught.value.more) == ((references[1],), False)
    assert await vault.points(DOMAIN) == []
    await vault.heartbeat(session)  # the session goes on


async def test_a_cycle_is_never_complete(vault):
    session = await begun(vault)
    first, second = Reference(PAGE, id_of(1)), Reference(PAGE, id_of(2))
    for reference, child in ((first, second), (second, first)):
        number = int.from_bytes(reference.id, "big")
        await vault.store(session, made_frame(number, PAGE, [child])[1])
    with pytest.raises(FrameMissing):
        await vault.commit(session, made_point(first))
    assert await has(vault, session, first, second) == [False, False]


async def test_a_tree_of_any_depth_is_walked(vault):
    session = await begun(vault)
    depth = 1500  # beyond Python's recursion limit
    frames = [made_frame(1, PAGE)]
    for number in range(2, depth):
        frames.append(made_frame(number, PAGE, [frames[-1][0]]))
    top_down = [raw for _, raw in reversed(frames)]
    for at in range(0, len(top_down), 500):
        await vault.store(session, b"".join(top_down[at : at + 500]))
    stored = await vault.commit(session, made_point(frames[-1][0]))
    assert stored.arrival_number == 1


async def test_commit_is_idempotent_and_ends_the_session(vault):
    session = await begun(vault)
    reference, raw = made_frame(1, PAGE)
    await vault.store(session, raw)
    record = made_point(reference)
    stored = await vault.commit(session, record)
    assert stored.record == record
    assert await vault.commit(session, record) == stored
    assert await vault.points(DOMAIN) == [stored]
    with pytest.raises(SessionEnded):
        await vault.commit(session, made_point(reference, name=2))
    with pytest.raises(SessionEnded):
        await vault.store(session, raw)


async def test_points_come_in_order_of_arrival(vault):
    for name, number in ((7, 2), (3, 1), (5, 3)):
        session = await begun(vault)
        await vault.commit(session, made_point(None, number=number, name=name))
    stored = await vault.points(DOMAIN)
    assert [point.decode(one.record).number for one in stored] == [2, 1, 3]
    assert [one.arrival_number for one in stored] == [1, 2, 3]
    assert await vault.points(DOMAIN, after=1) == stored[1:]
    assert await vault.points(DOMAIN, after=1, limit=1) == stored[1:2]
    assert await vault.points(DOMAIN, after=3) == []


async def test_points_with_a_wrong_signature_or_item_are_refused(vault):
    session = await begun(vault)
    forged = made_point(None, signing_key=bytes(32))
    for record in (forged, made_point(None, item=OTHER_ITEM)):
        with pytest.raises(Refused):
            await vault.commit(session, record)
    assert await vault.points(DOMAIN) == []


async def test_a_reader_cannot_commit(vault):
    session = await begun(vault, None)
    with pytest.raises(SessionEnded):
        await vault.commit(session, made_point(None))


async def test_an_item_has_one_writer_and_readers_are_free(vault):
    session = await begun(vault)
    with pytest.raises(ItemBusy):
        await vault.open_session(DOMAIN, ITEM)
    await begun(vault, None)
    await begun(vault, OTHER_ITEM)
    await vault.end_session(session)
    await vault.end_session(session)
    await begun(vault)


async def test_a_run_that_was_killed_does_not_keep_its_owner_out(vault):
    session = await begun(vault)
    await vault.end_session(session)
    killed = await vault.open_session(DOMAIN, ITEM, OWNER)
    again = await vault.open_session(DOMAIN, ITEM, OWNER)
    assert again.fence > killed.fence
    await vault.commit(again.number, made_point(None))


async def test_a_killed_runs_session_goes_on_where_its_owner_names_it(vault, clock):
    await begun(vault, OTHER_ITEM)
    killed = await vault.open_session(DOMAIN, ITEM, OWNER)
    await vault.store(killed.number, made_frame(1)[1])
    clock.days(4)
    assert await vault.open_session(DOMAIN, ITEM, OWNER, killed.number) == killed
    clock.days(4)  # since it went on
    assert await vault.have(killed.number, DATA, GENERATION, [made_frame(1)[0].id]) == [True]
    await vault.commit(killed.number, made_point(None))


async def test_of_two_commits_in_a_session_that_went_on_one_counts(vault):
    """What a killed run had posted arrives when the next one has gone on with its session."""
    await begun(vault, OTHER_ITEM)
    session = (await vault.open_session(DOMAIN, ITEM, OWNER)).number
    late, new = made_point(None, 2, 1), made_point(None, 2, 2)
    assert (await vault.open_session(DOMAIN, ITEM, OWNER, session)).number == session
    stored = await vault.commit(session, late)
    with pytest.raises(SessionEnded):
        await vault.commit(session, new)
    assert await vault.commit(session, late) == stored
    assert [each.record for each in await vault.points(DOMAIN)] == [late]


@pytest.mark.parametrize("how", ["ended", "another item's", "a reader", "unknown", "expired"])
async def test_a_session_that_cannot_go_on_is_followed_by_a_new_one(vault, clock, how):
    item = {"another item's": OTHER_ITEM, "a reader": None}.get(how, ITEM)
    before = (await vault.open_session(DOMAIN, item, OWNER)).number
    if how == "ended":
        await vault.end_session(before)
    if how == "expired":
        clock.days(8)
    named = 2**40 if how == "unknown" else before
    after = (await vault.open_session(DOMAIN, ITEM, OWNER, named)).number
    assert after > before
    await vault.heartbeat(after)


async def test_nobody_goes_on_with_the_session_of_another_owner(vault):
    held = (await vault.open_session(DOMAIN, ITEM, OWNER)).number
    for owner in (b"p" * 16, b""):
        with pytest.raises(ItemBusy):
            await vault.open_session(DOMAIN, ITEM, owner, held)


async def test_a_fenced_session_has_ended_for_every_call(vault):
    await begun(vault, OTHER_ITEM)
    fenced = (await vault.open_session(DOMAIN, ITEM, OWNER)).number
    await vault.open_session(DOMAIN, ITEM, OWNER)
    calls = [
        vault.heartbeat(fenced), vault.have(fenced, DATA, GENERATION, [id_of(1)]),
        vault.store(fenced, made_frame(1)[1]), fetched(vault, fenced, [made_frame(1)[0]]),
        vault.commit(fenced, made_point(None)), vault.wanted(fenced),
        vault.report_damaged(fenced, [made_frame(1)[0]]),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(SessionEnded):
            await call
    assert await vault.points(DOMAIN) == []


async def test_a_fenced_session_still_learns_that_its_point_was_committed(vault):
    await begun(vault, OTHER_ITEM)
    first = (await vault.open_session(DOMAIN, ITEM, OWNER)).number
    stored = await vault.commit(first, made_point(None))
    await vault.open_session(DOMAIN, ITEM, OWNER)
    assert await vault.commit(first, made_point(None)) == stored


async def test_another_owner_is_told_who_writes_the_item_and_since_when(vault, clock):
    held = (await vault.open_session(DOMAIN, ITEM, OWNER)).number
    clock.days(1)
    for owner in (b"p" * 16, b""):
        with pytest.raises(ItemBusy, match=rf"session {held} .* since 2023-11-14T22:13:20\+00:00"):
            await vault.open_session(DOMAIN, ITEM, owner)
    await vault.heartbeat(held)


async def test_nobody_is_not_an_owner(vault):
    await vault.open_session(DOMAIN, ITEM)
    for owner in (b"", OWNER):
        with pytest.raises(ItemBusy):
            await vault.open_session(DOMAIN, ITEM, owner)


async def test_an_owner_has_sixteen_bytes_or_none(vault):
    with pytest.raises(Refused):
        await vault.open_session(DOMAIN, ITEM, b"o" * 17)


async def test_an_owner_holds_each_item_by_itself_and_readers_are_never_fenced(vault):
    reader = (await vault.open_session(DOMAIN, None, OWNER)).number
    other = (await vault.open_session(DOMAIN, OTHER_ITEM, OWNER)).number
    await vault.open_session(DOMAIN, ITEM, OWNER)
    await vault.open_session(DOMAIN, None, OWNER)
    await vault.heartbeat(reader)
    await vault.heartbeat(other)


async def test_unknown_and_ended_sessions_are_told_so(vault):
    session = await begun(vault)
    await vault.end_session(session)
    await vault.end_session(12345)
    for number in (session, 12345):
        with pytest.raises(SessionEnded):
            await vault.have(number, DATA, GENERATION, [id_of(1)])


async def test_keyring_versions_are_added_by_compare_and_set(vault):
    assert await vault.keyring(DOMAIN) is None
    assert await vault.domains() == []
    with pytest.raises(Refused):
        await vault.add_keyring(DOMAIN, 2, made_keyring(2))
    await vault.add_keyring(DOMAIN, 1, made_keyring())
    with pytest.raises(Refused):
        await vault.add_keyring(DOMAIN, 1, made_keyring())
    await vault.add_keyring(DOMAIN, 2, made_keyring(2))
    assert await vault.keyring(DOMAIN) == made_keyring(2)
    assert await vault.keyring(DOMAIN, 1) == made_keyring()
    assert await vault.keyring(DOMAIN, 3) is None
    assert await vault.domains() == [DOMAIN]
    assert (await vault.open_session(DOMAIN, None)).keyring_version == 2


async def test_a_forged_or_swapped_keyring_is_refused(vault):
    with pytest.raises(Refused):
        await vault.add_keyring(DOMAIN, 1, made_keyring(signing_key=bytes(32)))
    with pytest.raises(Refused):
        await vault.add_keyring(b"d" * 16, 1, made_keyring())


async def test_two_domains_do_not_see_each_other(vault):
    session = await begun(vault)
    reference, raw = made_frame(1)
    await vault.store(session, raw)
    stranger = (await vault.open_session(b"d" * 16, None)).number
    assert await has(vault, stranger, reference) == [False]
    assert await fetched(vault, stranger, [reference]) == [None]
    assert await vault.points(b"d" * 16) == []


async def test_a_reported_copy_counts_as_missing_until_a_new_one_heals_it(vault):
    references, _ = await with_point(vault)
    session = await begun(vault)
    assert await vault.wanted(session) == []
    await vault.report_damaged(session, [references[0]])
    assert await has(vault, session, *references) == [False, True, False, False]
    assert await vault.wanted(session) == [references[0]]
    _, healthy = made_frame(1, payload=b"sealed once again")
    assert await vault.store(session, healthy) == [STORED]
    assert await fetched(vault, session, [references[0]]) == [healthy]
    assert await vault.wanted(session) == []
    assert await has(vault, session, *references) == [True] * 4


async def test_a_reported_copy_is_still_given_when_it_is_the_only_one(vault):
    references, frames = await with_point(vault)
    session = await begun(vault, None)
    await vault.report_damaged(session, [references[0]])
    assert await fetched(vault, session, [references[0]]) == [frames[0]]


async def test_who_cannot_open_one_copy_is_given_the_next(vault):
    """A copy that somebody called bad may be the only one that opens."""
    references, frames = await with_point(vault)
    session, asked = await begun(vault), references[:1]
    second, third = (made_frame(1, payload=b"copy %d" % number * 3)[1] for number in (2, 3))
    for raw in (second, third):
        await vault.report_damaged(session, asked)
        assert await vault.store(session, raw) == [STORED]
    await vault.end_session(session)
    reader = await begun(vault, None)
    given = []
    for _ in range(3):
        given += await fetched(vault, reader, asked)
        await vault.report_damaged(reader, asked)
    assert given[0] == third  # the one that nobody had called bad
    assert sorted(given) == sorted([frames[0], second, third])
    assert await fetched(vault, reader, asked) == given[:1]  # and so on


async def test_damage_clears_all_that_is_above_it_and_nothing_else(vault):
    session = await begun(vault)
    hurt, sound = made_frame(1), made_frame(2)
    leaf = made_frame(3, LEAF, [hurt[0], sound[0]])
    upper = made_frame(4, tag_of(Kind.STREAM, 2), [leaf[0]])
    page = made_frame(5, PAGE, [upper[0]])
    index = made_frame(6, tag_of(Kind.INDEX, 1), [page[0]])
    outer = made_frame(7, PAGE, [index[0], sound[0]])
    other_leaf, other_page = made_frame(8, LEAF, [sound[0]]), made_frame(9, PAGE, [sound[0]])
    above, beside = [leaf, upper, page, index, outer], [sound, other_leaf, other_page]
    await vault.store(session, b"".join(raw for _, raw in [hurt, *beside, *above]))
    assert await has(vault, session, *(one for one, _ in above + beside)) == [True] * 8
    await vault.report_damaged(session, [hurt[0]])
    assert await has(vault, session, *(one for one, _ in above)) == [False] * 5
    assert await has(vault, session, *(one for one, _ in beside)) == [True] * 3


async def test_damage_at_the_bottom_reaches_the_top_of_any_depth(vault):
    session = await begun(vault)
    chain = [made_frame(7)]
    for number in range(2, 1200):  # in no order of IDs
        chain.append(made_frame(number * 7 % 1201, PAGE, [chain[-1][0]]))
    for at in range(0, len(chain), 500):
        await vault.store(session, b"".join(raw for _, raw in chain[at : at + 500]))
    await vault.commit(session, made_point(chain[-1][0]))
    session = await begun(vault)
    await vault.report_damaged(session, [chain[0][0]])
    assert await has(vault, session, chain[-1][0], chain[700][0]) == [False, False]
    assert await vault.wanted(session) == [chain[0][0]]


async def test_a_frame_is_healed_as_often_as_it_is_reported(vault):
    references, _ = await with_point(vault)
    session = await begun(vault)
    for turn in (b"first turn at it", b"another turn now"):
        await vault.report_damaged(session, [references[0], references[2]])
        assert await vault.wanted(session) == [references[2]]  # it cannot be looked below
        healthy = made_frame(3, LEAF, references[:2], payload=turn)[1]
        assert await vault.store(session, healthy) == [STORED]
        assert await vault.wanted(session) == [references[0]]
        assert await vault.store(session, made_frame(1, payload=turn)[1]) == [STORED]
        assert await vault.wanted(session) == []
        assert await has(vault, session, *references) == [True] * 4


async def test_damage_below_an_old_root_stops_a_commit(vault):
    references, _ = await with_point(vault)
    session = await begun(vault)
    await vault.report_damaged(session, [references[1]])
    with pytest.raises(FrameMissing):
        await vault.commit(session, made_point(references[-1], 2, 2))


async def test_wanted_asks_for_the_newest_point_of_the_item_only(vault):
    references, _ = await with_point(vault)
    session = await begun(vault)
    await vault.commit(session, made_point(None, number=2, name=2))
    session = await begun(vault)
    await vault.report_damaged(session, references[:1])
    assert await vault.wanted(session) == []
    assert await vault.wanted(await begun(vault, OTHER_ITEM)) == []


async def test_concurrent_calls_store_each_frame_once(vault):
    session = await begun(vault)
    _, raw = made_frame(1)
    answers = await asyncio.gather(*(vault.store(session, raw) for _ in range(5)))
    assert sorted(answer[0] for answer in answers) == [STORED] + [EXISTED] * 4


async def test_statistics_count_what_is_stored(vault):
    _, frames = await with_point(vault)
    assert await vault.statistics() == {
        "bytes_stored": sum(map(len, frames)), "blocks": 2, "nodes": 2, "points": 1, "machines": 1,
    }  # fmt: skip


async def test_a_deleted_point_stays_deleted(vault, delete_point):
    await with_point(vault)
    (stored,) = await vault.points(DOMAIN)
    await delete_point(point.decode(stored.record).point_id)
    assert await vault.points(DOMAIN) == []
    with pytest.raises(PointMissing):
        await vault.commit(await begun(vault), stored.record)


async def test_one_id_under_two_kinds_is_two_frames(vault):
    session = await begun(vault)
    data, raw = made_frame(5)
    child = made_frame(1)
    await vault.store(session, raw + child[1])
    leaf, node = made_frame(5, LEAF, [child[0]])
    assert data.id == leaf.id
    assert await has(vault, session, data, leaf) == [True, False]
    assert await vault.store(session, node) == [STORED]
    assert await fetched(vault, session, [data, leaf]) == [raw, node]


async def test_a_session_expires_after_seven_days_of_silence(vault, clock):
    session = await begun(vault)
    clock.days(6)
    await vault.heartbeat(session)
    clock.days(6)
    await vault.heartbeat(session)
    clock.days(8)
    calls = [
        vault.heartbeat(session), vault.store(session, made_frame(1)[1]),
        vault.commit(session, made_point(None)),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(SessionEnded):
            await call
    assert await vault.points(DOMAIN) == []
    await begun(vault)
    clock.days(-8)  # a clock that goes back brings no session back
    with pytest.raises(SessionEnded):
        await vault.heartbeat(session)
