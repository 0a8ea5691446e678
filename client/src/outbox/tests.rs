//! Proves that every post ends, in order and once, whatever the server answers.

use tern_protocol::client::SendMessage;

use super::*;

const ROOM: ConversationId = ConversationId::from_raw(7 << 64 | 9);

fn text(body: &str) -> PostContent {
    let body = Bytes::copy_from_slice(body.as_bytes());
    PostContent::Message { content: Content::Text, reply_to: None, mentions: Vec::new(), body }
}

fn post(request: u128, body: &str) -> PendingSend {
    let (request, known) = (RequestId::from_raw(request), Seq::from_raw(40));
    PendingSend { request, conversation: ROOM, known, content: text(body) }
}

fn outbox_with(now: Instant, count: u128) -> Outbox {
    let mut outbox = Outbox::new(Duration::from_secs(60));
    for request in 1..=count {
        outbox.push(now, post(request, "x"));
    }
    outbox
}

/// Request ids and `known` of everything that may be sent at this moment.
fn transmitted(outbox: &mut Outbox, now: Instant) -> Vec<(u128, u64)> {
    let mut sent = Vec::new();
    while let Some(transmit) = outbox.poll(now) {
        match transmit {
            Transmit::Frame(bytes) => {
                let send = frame::decode::<SendMessage<'_>>(&bytes).expect("a send");
                sent.push((send.request.to_native(), send.known.to_native()));
            }
            Transmit::Search(..) => panic!("no search expected"),
        }
    }
    sent
}

#[test]
fn a_resend_keeps_its_name_and_says_what_was_known_at_first() {
    let now = Instant::now();
    let mut outbox = outbox_with(now, 2);
    assert_eq!(transmitted(&mut outbox, now), [(1, KNOWN_FRESH), (2, KNOWN_FRESH)]);
    outbox.on_connected();
    assert_eq!(transmitted(&mut outbox, now), [(1, 40), (2, 40)]);
    let done = outbox.on_stored(RequestId::from_raw(1), Seq::from_raw(41), Timestamp::ZERO, true);
    assert_eq!(done.map(|done| done.state), Some(SendState::Sent(Seq::from_raw(41))));
    assert_eq!(outbox.on_stored(RequestId::from_raw(1), Seq::from_raw(41), Timestamp::ZERO, true), None);
}

#[test]
fn the_pipeline_is_bounded_and_moves_on_with_each_ack() {
    let now = Instant::now();
    let mut outbox = outbox_with(now, 40);
    assert_eq!(transmitted(&mut outbox, now).len(), PIPELINE_MAX);
    outbox.on_stored(RequestId::from_raw(1), Seq::from_raw(41), Timestamp::ZERO, false);
    assert_eq!(transmitted(&mut outbox, now), [(PIPELINE_MAX as u128 + 1, KNOWN_FRESH)]);
}

#[test]
fn a_busy_server_is_left_alone_until_it_said() {
    let now = Instant::now();
    let mut outbox = outbox_with(now, 1);
    transmitted(&mut outbox, now);
    let wait = Duration::from_secs(3);
    assert_eq!(outbox.on_reject(now, RequestId::from_raw(1), Some(RejectCode::Busy), wait), None);
    outbox.push(now, post(2, "y"));
    assert_eq!(transmitted(&mut outbox, now + wait / 2), []);
    assert_eq!(outbox.deadline(true), Some(now + wait));
    assert_eq!(transmitted(&mut outbox, now + wait), [(1, 40), (2, KNOWN_FRESH)]);
}

#[test]
fn every_post_ends_even_if_the_server_only_says_later() {
    let start = Instant::now();
    let mut outbox = outbox_with(start, 1);
    let mut now = start;
    let state = loop {
        if let Some(done) = outbox.expire(now) {
            break done.state;
        }
        transmitted(&mut outbox, now);
        outbox.on_reject(now, RequestId::from_raw(1), Some(RejectCode::OutcomeUnknown), Duration::ZERO);
        now = outbox.deadline(true).expect("a post waits");
    };
    assert_eq!(state, SendState::Failed(SendError::Unconfirmed));
    assert!(now <= start + Duration::from_secs(60));
    let again = outbox.retry(now, RequestId::from_raw(1)).map(|again| again.state);
    assert_eq!(again, Some(SendState::Pending));
    assert_eq!(transmitted(&mut outbox, now), [(1, 40)]);
}

#[test]
fn a_post_that_was_never_sent_says_so() {
    let now = Instant::now();
    let mut outbox = outbox_with(now, 1);
    let done = outbox.expire(now + Duration::from_secs(61)).map(|done| done.state);
    assert_eq!(done, Some(SendState::Failed(SendError::Expired)));
}

#[test]
fn catching_up_finds_the_stored_event_or_sends_again_with_the_head() {
    let now = Instant::now();
    let request = RequestId::from_raw(1);
    for stored in [true, false] {
        let mut outbox = outbox_with(now, 2);
        transmitted(&mut outbox, now);
        outbox.on_connected();
        transmitted(&mut outbox, now);
        outbox.on_reject(now, request, Some(RejectCode::CatchUpFirst), Duration::ZERO);
        assert!(matches!(outbox.poll(now), Some(Transmit::Search(_, _, 40))));
        assert!(outbox.poll(now).is_none());
        assert_eq!(outbox.on_search_page(request, None, Some(296), (1, 400), false), None);
        assert!(matches!(outbox.poll(now), Some(Transmit::Search(_, _, 296))));
        if stored {
            let found = Some((Seq::from_raw(300), Timestamp::ZERO));
            let done = outbox.on_search_page(request, found, Some(400), (1, 400), false);
            assert_eq!(done.map(|done| done.state), Some(SendState::Sent(Seq::from_raw(300))));
        } else {
            assert_eq!(outbox.on_search_page(request, None, Some(400), (1, 400), false), None);
            assert_eq!(transmitted(&mut outbox, now), [(1, 400)]);
        }
    }
}

#[test]
fn a_first_attempt_that_comes_too_late_is_sent_again_without_a_search() {
    let now = Instant::now();
    let request = RequestId::from_raw(1);
    let mut outbox = outbox_with(now, 1);
    transmitted(&mut outbox, now);
    outbox.on_reject(now, request, Some(RejectCode::CatchUpFirst), Duration::ZERO);
    assert!(matches!(outbox.poll(now), Some(Transmit::Search(_, _, HEAD_ONLY))));
    assert_eq!(outbox.on_search_page(request, None, None, (1, 5_000), false), None);
    assert_eq!(transmitted(&mut outbox, now), [(1, 5_000)]);
}

#[test]
fn what_an_earlier_process_may_have_sent_is_never_a_first_attempt() {
    let now = Instant::now();
    let mut outbox = outbox_with(now, 0);
    outbox.resume(now, post(1, "x"));
    assert_eq!(transmitted(&mut outbox, now), [(1, 40)]);
    outbox.on_reject(now, RequestId::from_raw(1), Some(RejectCode::CatchUpFirst), Duration::ZERO);
    assert!(matches!(outbox.poll(now), Some(Transmit::Search(_, _, 40))));
}

#[test]
fn a_search_that_may_not_see_everything_ends_as_unknown() {
    let now = Instant::now();
    let request = RequestId::from_raw(1);
    let mut outbox = outbox_with(now, 0);
    outbox.resume(now, post(1, "x"));
    transmitted(&mut outbox, now);
    outbox.on_reject(now, request, Some(RejectCode::CatchUpFirst), Duration::ZERO);
    outbox.poll(now);
    let done = outbox.on_search_page(request, None, Some(400), (300, 400), false).map(|done| done.state);
    assert_eq!(done, Some(SendState::Failed(SendError::Rejected(RejectCode::Rejoined))));
}

#[test]
fn who_is_out_by_now_is_not_told_that_an_earlier_attempt_failed() {
    let now = Instant::now();
    let mut outbox = outbox_with(now, 1);
    transmitted(&mut outbox, now);
    outbox.on_connected();
    transmitted(&mut outbox, now);
    let done = outbox.on_reject(now, RequestId::from_raw(1), Some(RejectCode::NotFound), Duration::ZERO);
    assert_eq!(done.map(|done| done.state), Some(SendState::Failed(SendError::Unconfirmed)));
}

#[test]
fn a_refused_post_fails_with_the_reason_and_the_next_one_goes_on() {
    let now = Instant::now();
    let mut outbox = outbox_with(now, 2);
    transmitted(&mut outbox, now);
    let done = outbox.on_reject(now, RequestId::from_raw(1), Some(RejectCode::NotFound), Duration::ZERO);
    assert_eq!(done.map(|done| done.state), Some(SendState::Failed(SendError::Rejected(RejectCode::NotFound))));
    assert!(outbox.on_stored(RequestId::from_raw(2), Seq::from_raw(41), Timestamp::ZERO, false).is_some());
}

#[test]
fn the_queue_is_bounded() {
    let now = Instant::now();
    let mut outbox = outbox_with(now, POSTS_MAX as u128);
    let refused = outbox.push(now, post(9999, "x"));
    assert_eq!(refused.state, SendState::Failed(SendError::QueueFull));
}

#[test]
fn delivered_and_read_are_told_once_each() {
    let now = Instant::now();
    let mut outbox = outbox_with(now, 2);
    for (request, seq) in [(1, 41), (2, 42)] {
        outbox.on_stored(RequestId::from_raw(request), Seq::from_raw(seq), Timestamp::ZERO, true);
    }
    let mut told = Vec::new();
    for (delivered, read) in [(41, 0), (41, 0), (42, 41), (42, 42), (42, 42)] {
        while let Some(news) = outbox.on_receipt(ROOM, Seq::from_raw(delivered), Seq::from_raw(read)) {
            told.push((news.request.raw(), news.state));
        }
    }
    let (delivered, read) = (SendState::Delivered, SendState::Read);
    assert_eq!(told, [(1, delivered), (1, read), (2, delivered), (2, read)]);
}
