//! Real datagrams over the loopback interface: what the receiver got is what the proxy says it let through.
use super::*;

const SENT: u64 = 10_000;

async fn socket() -> UdpSocket {
    UdpSocket::bind(("127.0.0.1", 0)).await.unwrap()
}

async fn pair(seed: u64) -> (UdpProxy, UdpSocket, UdpSocket) {
    let (client, server) = (socket().await, socket().await);
    let proxy = UdpProxy::start(([127, 0, 0, 1], 0).into(), server.local_addr().unwrap(), &Rng::new(seed))
        .await
        .unwrap();
    client.connect(proxy.address()).await.unwrap();
    (proxy, client, server)
}

/// Waits for a fact.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(crate::PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited for: {what}"));
}

#[tokio::test]
async fn received_and_dropped_are_what_was_sent_and_every_second_copy_is_counted() {
    let (proxy, client, server) = pair(11).await;
    proxy.set(Way::Up, Faults { drop: 10.0, duplicate: 5.0, ..Faults::default() });
    let mut seen = HashMap::<u64, u64>::new();
    let (mut got, mut buffer) = (0, [0; 64]);
    for number in 0..SENT {
        client.send(&number.to_le_bytes()).await.unwrap();
        // Not more on the way than the sockets hold: what the kernel dropped nobody could count.
        if number % 50 == 49 {
            until("the proxy took them", || proxy.counts(Way::Up).arrived == number + 1).await;
            while got < proxy.counts(Way::Up).forwarded {
                let len =
                    tokio::time::timeout(crate::PATIENCE, server.recv(&mut buffer)).await.unwrap().unwrap();
                *seen.entry(u64::from_le_bytes(buffer[..len].try_into().unwrap())).or_default() += 1;
                got += 1;
            }
        }
    }
    let counts = proxy.counts(Way::Up);
    assert_eq!((counts.arrived, counts.forwarded), (SENT, got));
    assert_eq!(seen.len() as u64 + counts.dropped, SENT, "{counts}");
    assert_eq!(seen.values().filter(|n| **n == 2).count() as u64, counts.duplicated);
    assert!(counts.dropped > 900 && counts.duplicated > 400 && counts.reordered == 0, "{counts}");
    assert_eq!(proxy.counts(Way::Down), Counts::default(), "the other direction is not touched");
}

#[tokio::test]
async fn answers_find_their_client_and_a_rebinding_gives_it_a_new_port_there() {
    let (proxy, client, server) = pair(12).await;
    let other = socket().await;
    other.connect(proxy.address()).await.unwrap();
    let mut buffer = [0; 64];
    let mut ports = Vec::new();
    for round in 0..2 {
        for (who, word) in [(&client, b"one"), (&other, b"two")] {
            who.send(word).await.unwrap();
            let (len, from) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..len], word);
            server.send_to(word, from).await.unwrap();
            let len = who.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..len], word);
            ports.push(from.port());
        }
        if round == 0 {
            proxy.rebind();
            until("both are rebound", || proxy.counts(Way::Up).rebinds == 2).await;
        }
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 4, "two clients, two ports each");
}

#[tokio::test]
async fn one_way_can_be_closed_alone() {
    let (proxy, client, server) = pair(13).await;
    proxy.set(Way::Down, Faults::blackhole());
    let mut buffer = [0; 64];
    client.send(b"up").await.unwrap();
    let (_, from) = server.recv_from(&mut buffer).await.unwrap();
    server.send_to(b"lost", from).await.unwrap();
    until("it is swallowed", || proxy.counts(Way::Down).blackholed == 1).await;
    proxy.heal();
    server.send_to(b"heard", from).await.unwrap();
    let len = client.recv(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..len], b"heard");
}
