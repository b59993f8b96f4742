//! The queue's scripts, on a real Redis.

use crate::support::{redis::Redis, timing::timed};
use std::{sync::Arc, time::Duration};
use tablemap::{
    connection::{
        postgres::{Tls, TlsMode},
        redis::{Settings, Topology},
    },
    queue::{Beginning, Queue, QueueError, encode},
    record::{
        Cell, Change, Counted, Counters, Era, Lsn, Operation, Origin, Position, Relation, ReplicaIdentity,
    },
};

async fn queue(redis: &Redis) -> Queue {
    let settings = Settings {
        topology: Topology::Standalone {
            host: "127.0.0.1".into(),
            port: redis.port,
        },
        username: None,
        password: None,
        tls: Tls {
            mode: TlsMode::Disable,
            ca: None,
            client: None,
        },
        connect_timeout: Duration::from_secs(3),
    };
    let connected = Queue::connect(&settings, "default", "test", "test").await;
    let mut queue = connected.unwrap();
    queue.use_epoch(1);
    let beginning = Beginning {
        first: Position::ZERO,
        era: Era::default(),
        table: 7,
        source: Origin::new("1", "crm"),
        destination: Origin::new("2", "erp"),
        serves: String::new(),
    };
    queue.join(&beginning, 1).await.unwrap();
    queue.finish_join().await.unwrap();
    queue
}

fn at(lsn: u64) -> Position {
    Position {
        generation: 1,
        commit: Lsn(lsn),
        change: Lsn(lsn),
        index: 0,
    }
}

/// The records at these positions, as one entry after `previous`.
async fn append(queue: &Queue, previous: Position, positions: &[u64]) {
    let relation = Arc::new(Relation {
        id: 1,
        schema: "public".into(),
        name: "items".into(),
        identity: ReplicaIdentity::Default,
        columns: Vec::new(),
    });
    let record = |lsn: &u64| Counted {
        change: Change {
            position: at(*lsn),
            operation: Operation::Insert,
            commit_time: 0,
            origin: None,
            relation: relation.clone(),
            old: None,
            new: Some([Cell::Text(b"x")].into_iter().collect()),
        },
        counters: Counters {
            received: *lsn,
            filtered: 0,
        },
    };
    let records: Vec<Counted> = positions.iter().map(record).collect();
    let none: [&[u8]; 0] = [];
    let entry = encode(&records, previous, none.iter()).unwrap();
    queue.append(vec![entry]).await.unwrap();
}

/// A trim that is late meets a Redis that went back, and was given other entries with the same numbers since.
#[tokio::test(flavor = "multi_thread")]
async fn a_trim_removes_only_what_it_was_meant_for() {
    let _time = timed("a_trim_removes_only_what_it_was_meant_for");
    let redis = Redis::start().await;
    let queue = queue(&redis).await;
    append(&queue, Position::ZERO, &[1, 2]).await;
    append(&queue, at(2), &[3, 4, 5]).await;
    append(&queue, at(5), &[6]).await;
    // The second entry was another one: it ended at 4.
    assert_eq!(
        queue.trim(2, at(4), None).await,
        Err(QueueError::WrongPredecessor)
    );
    // There is no fourth entry, and what stands before it was not flushed.
    assert_eq!(
        queue.trim(4, at(7), None).await,
        Err(QueueError::WrongPredecessor)
    );
    assert_eq!(queue.read(0, 10).await.unwrap().len(), 3);

    let account = queue.trim(2, at(5), None).await.unwrap();
    assert_eq!((account.records, account.t), (1, at(5)));
    // Twice, and in another order.
    queue.trim(2, at(5), None).await.unwrap();
    let account = queue.trim(1, at(2), None).await.unwrap();
    assert_eq!((account.records, account.t), (1, at(5)));
    assert_eq!(queue.trim(3, at(6), None).await.unwrap().records, 0);
}

/// A reply was given up, and all was done anew; then the first one comes after all.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_before_the_queue_is_added_once() {
    let _time = timed("what_was_counted_before_the_queue_is_added_once");
    let redis = Redis::start().await;
    let queue = queue(&redis).await;
    queue.begin(at(5), at(5), None).await.unwrap();
    append(&queue, at(5), &[6, 7]).await;
    let counted = Counters {
        received: 107,
        filtered: 0,
    };
    let based = queue.advance(at(7), at(7), counted, true).await.unwrap();
    assert_eq!(based.counters, counted);
    let twice = Counters {
        received: 207,
        filtered: 0,
    };
    assert_eq!(
        queue.advance(at(7), at(7), twice, true).await,
        Err(QueueError::WrongPredecessor)
    );
    let meta = queue.meta().await.unwrap().unwrap();
    assert_eq!((meta.account.counters, meta.unbased), (counted, false));
    // A stretch without records is another matter.
    queue.advance(at(7), at(9), counted, false).await.unwrap();
}
