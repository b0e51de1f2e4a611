//! Output on streams of its own: whole tapes and followed ones.
use super::*;
use reeve_protocol::artifact::Artifact;

#[tokio::test]
async fn an_end_waits_for_its_tape_and_lets_others_pass() {
    let mut head = Head::start();
    let (_, mut peer) = head.session().await;
    peer.write(kind::MACHINE, &wire::Machine::default()).await;
    head.hears().await;
    let tape: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    peer.write(kind::FINISHED, &finished(1, tape.len() as u64)).await;
    peer.write(kind::FINISHED, &finished(2, 0)).await;
    assert_eq!(head.hears().await, AgentSaid::Finished(Box::new(finished(2, 0)), None));
    peer.upload(&whole(1, tape.len() as u64), &tape).await;
    let AgentSaid::Finished(end, Some(segment)) = head.hears().await else {
        panic!("the end comes with its segment")
    };
    assert_eq!(end.attempt, attempt(1));
    assert_eq!(head.segments.read(segment, 0, usize::MAX).unwrap(), tape);
    assert!(head.dir.path().join("output").exists());
}

#[tokio::test]
async fn a_tape_of_another_length_than_promised_is_not_kept() {
    let mut head = Head::start();
    let (_, mut peer) = head.session().await;
    peer.write(kind::MACHINE, &wire::Machine::default()).await;
    head.hears().await;
    for (job, total, sent) in [(1, 100, 50), (2, 100, 150), (3, 1 << 40, 10)] {
        peer.upload(&whole(job, total), &vec![7; sent]).await;
        peer.write(kind::FINISHED, &finished(job, total)).await;
        assert_eq!(
            head.hears().await,
            AgentSaid::Finished(Box::new(finished(job, total)), None),
            "job {job}"
        );
    }
}

#[tokio::test]
async fn a_tape_of_an_attempt_that_the_machine_does_not_have_takes_no_space() {
    let mut head = Head::start();
    let (_, mut peer) = head.session().await;
    peer.write(kind::MACHINE, &wire::Machine::default()).await;
    head.hears().await;
    let mut stream = within(peer.connection.open_uni()).await.unwrap();
    let mut bytes = Vec::new();
    frame::append(kind::OUTPUT_HEAD, 0, &whole(NOT_HELD, 100_000), &mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    assert!(within(stream.stopped()).await.unwrap().is_some(), "the machine is told to stop");
    peer.write(kind::FINISHED, &finished(NOT_HELD, 100_000)).await;
    assert_eq!(
        head.hears().await,
        AgentSaid::Finished(Box::new(finished(NOT_HELD, 100_000)), None),
        "its end passes, and the core judges it"
    );
    assert_eq!(head.segments.total_bytes(), 0);
    // One that it has, sent twice, and never ended: the session's end gives the space back.
    for _ in 0..2 {
        peer.upload(&whole(1, 5000), &[1; 5000]).await;
    }
    drop(peer);
    assert_eq!(head.hears().await, AgentSaid::Closed);
    // The streams end on their own, perhaps after the session.
    within(async {
        while head.segments.total_bytes() > 5000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn file(name: &str, bytes: &[u8]) -> Artifact {
    Artifact { name: name.into(), size: bytes.len() as u64, mode: 0o644, sha256: token::sha256_hex(bytes) }
}

async fn send_artifacts(peer: &Peer, job: u64, files: Vec<Artifact>, bytes: &[u8]) {
    let mut stream = within(peer.connection.open_uni()).await.unwrap();
    let mut head = Vec::new();
    let body = wire::ArtifactsHead { attempt: attempt(job), files };
    frame::append(kind::ARTIFACTS_HEAD, 0, &body, &mut head).unwrap();
    stream.write_all(&head).await.unwrap();
    // Refused ones are told to stop, perhaps before all was written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.finish();
}

#[tokio::test]
async fn an_end_waits_for_the_artifacts_that_were_promised_and_comes_right_behind_them() {
    let mut head = Head::start();
    let (_, mut peer) = head.session().await;
    peer.write(kind::MACHINE, &wire::Machine::default()).await;
    head.hears().await;
    let promise = |job| wire::Artifacts { attempt: attempt(job), count: 2, total: 100_001 };
    peer.write(kind::ARTIFACTS, &promise(1)).await;
    peer.write(kind::FINISHED, &finished(1, 0)).await;
    peer.write(kind::FINISHED, &finished(2, 0)).await;
    assert_eq!(head.hears().await, AgentSaid::Finished(Box::new(finished(2, 0)), None), "others pass");
    let bytes: Vec<u8> = (0..100_001u32).map(|n| n as u8).collect();
    let files = vec![file("a", &bytes[..1]), file("b/c", &bytes[1..])];
    send_artifacts(&peer, 1, files.clone(), &bytes).await;
    let AgentSaid::Artifacts(kept) = head.hears().await else { panic!("the files come first") };
    assert_eq!((kept.attempt, &kept.files), (attempt(1), &files));
    assert_eq!(head.segments.read(kept.segment, 0, usize::MAX).unwrap(), bytes);
    assert_eq!(head.hears().await, AgentSaid::Finished(Box::new(finished(1, 0)), None));
    // Other bytes than the digest, fewer, impossible names, a job that is not held: the end passes without.
    let total = head.segments.total_bytes();
    let lies = [
        (3, vec![file("a", b"other")], &b"bytes"[..]),
        (4, vec![file("a", b"other")], b"oth"),
        (5, vec![file("../a", b"x")], b"x"),
        (NOT_HELD, vec![file("a", b"x")], b"x"),
    ];
    for (job, files, bytes) in lies {
        peer.write(kind::ARTIFACTS, &promise(job)).await;
        peer.write(kind::FINISHED, &finished(job, 0)).await;
        send_artifacts(&peer, job, files, bytes).await;
        assert_eq!(head.hears().await, AgentSaid::Finished(Box::new(finished(job, 0)), None), "job {job}");
    }
    assert_eq!(head.segments.total_bytes(), total);
}

#[tokio::test]
async fn a_stream_without_a_proper_head_ends_the_session() {
    let mut head = Head::start();
    let (_, peer) = head.session().await;
    let mut stream = within(peer.connection.open_uni()).await.unwrap();
    let mut bytes = Vec::new();
    frame::append(kind::BEAT, 0, &wire::Beat { number: 1, echo: 1 }, &mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(peer.closed().await, close::UNEXPECTED);
    assert_eq!(head.hears().await, AgentSaid::Closed);
}

#[tokio::test]
async fn output_is_followed_while_it_is_written_until_either_side_ends() {
    let head = Head::start();
    let (identity, mut peer) = head.session().await;
    let (into, mut bytes) = mpsc::channel(4);
    assert!(head.sessions.follow(&identity.machine, attempt(5), 10, into));
    let asked: wire::Follow = peer.expect(kind::FOLLOW).await;
    assert_eq!((asked.attempt, asked.from), (attempt(5), 10));
    peer.upload(
        &wire::OutputHead { attempt: attempt(5), follow: Some(asked.id), from: 10, total: 0 },
        b"hello",
    )
    .await;
    let mut seen = Vec::new();
    while let Some(piece) = within(bytes.recv()).await {
        seen.extend(piece);
    }
    assert_eq!(seen, b"hello");

    let (into, bytes) = mpsc::channel(4);
    assert!(head.sessions.follow(&identity.machine, attempt(5), 0, into));
    let asked: wire::Follow = peer.expect(kind::FOLLOW).await;
    let mut stream = within(peer.connection.open_uni()).await.unwrap();
    let mut bytes_out = Vec::new();
    frame::append(
        kind::OUTPUT_HEAD,
        0,
        &wire::OutputHead { attempt: attempt(5), follow: Some(asked.id), from: 0, total: 0 },
        &mut bytes_out,
    )
    .unwrap();
    stream.write_all(&bytes_out).await.unwrap();
    drop(bytes);
    assert!(within(stream.stopped()).await.unwrap().is_some(), "the machine is told to stop");
}

#[tokio::test]
async fn a_follower_that_left_before_anything_came_is_unfollowed() {
    let head = Head::start();
    let (identity, mut peer) = head.session().await;
    let (into, bytes) = mpsc::channel(4);
    assert!(head.sessions.follow(&identity.machine, attempt(5), 0, into));
    let asked: wire::Follow = peer.expect(kind::FOLLOW).await;
    drop(bytes);
    peer.write(kind::BEAT, &wire::Beat { number: 1, echo: 0 }).await;
    peer.expect::<wire::Beat>(kind::BEAT_ECHO).await;
    assert_eq!(peer.expect::<wire::Unfollow>(kind::UNFOLLOW).await.id, asked.id);
}
