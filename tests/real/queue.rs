//! The queue's scripts, on a real Redis.

use crate::support::{redis::Redis, timing::timed};
use std::{sync::Arc, time::Duration};
use tablemap::{
    connection::{
        postgres::{Tls, TlsMode},
        redis::{Settings, Topology},
    },
    failure::{Class, Refusal},
    queue::{Accepted, Account, Beginning, Counts, Keys, Left, Listed, Queue, QueueError, encode},
    record::{
        Cell, Change, Counted, Counters, Era, Has, Lsn, Mark, Once, Operation, Origin, ParkedRecord,
        Position, Relation, ReplicaIdentity, Waiting, key_hash,
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

fn change(lsn: u64, relation: &Arc<Relation>) -> Change {
    Change {
        position: at(lsn),
        operation: Operation::Insert,
        commit_time: 0,
        origin: None,
        relation: relation.clone(),
        old: None,
        new: Some([Cell::Text(b"x")].into_iter().collect()),
    }
}

fn relation() -> Arc<Relation> {
    Arc::new(Relation {
        id: 1,
        schema: "public".into(),
        name: "items".into(),
        identity: ReplicaIdentity::Default,
        columns: Vec::new(),
    })
}

/// The records at these positions, as one entry after `previous`.
async fn append(queue: &Queue, previous: Position, positions: &[u64]) -> Account {
    let relation = relation();
    let record = |lsn: &u64| Counted {
        change: change(*lsn, &relation),
        counters: Counters {
            received: *lsn,
            filtered: 0,
        },
    };
    let records: Vec<Counted> = positions.iter().map(record).collect();
    let none: [&[u8]; 0] = [];
    let entry = encode(&records, previous, none.iter()).unwrap();
    queue.append(&[entry], false).await.unwrap()
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
        queue.trim(2, at(4), None, None).await,
        Err(QueueError::WrongPredecessor)
    );
    // There is no fourth entry, and what stands before it was not flushed.
    assert_eq!(
        queue.trim(4, at(7), None, None).await,
        Err(QueueError::WrongPredecessor)
    );
    assert_eq!(queue.read(0, 10).await.unwrap().len(), 3);

    let account = queue.trim(2, at(5), None, None).await.unwrap();
    assert_eq!((account.records, account.t), (1, at(5)));
    // Twice, and in another order.
    queue.trim(2, at(5), None, None).await.unwrap();
    let account = queue.trim(1, at(2), None, None).await.unwrap();
    assert_eq!((account.records, account.t), (1, at(5)));
    assert_eq!(queue.trim(3, at(6), None, None).await.unwrap().records, 0);
}

/// A reply was given up, and all was done anew; then the first one comes after all.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_before_the_queue_is_added_once() {
    let _time = timed("what_was_counted_before_the_queue_is_added_once");
    let redis = Redis::start().await;
    let queue = queue(&redis).await;
    queue
        .begin(Position::ZERO, at(5), at(5), Counts::Unknown)
        .await
        .unwrap();
    let account = append(&queue, at(5), &[6, 7]).await;
    assert_eq!((account.base, account.counters.received), (None, 7));
    let of = |received| Counters {
        received,
        filtered: 0,
    };
    let based = queue.set_base(at(5), of(100)).await.unwrap();
    assert_eq!((based.base, based.counters), (Some(of(100)), of(107)));
    let late = queue.set_base(at(5), of(200)).await.unwrap();
    assert_eq!(late.counters, of(107));
    // A stretch without records counts on from the beginning, as entries do.
    let on = queue.advance(at(7), at(9), of(8), true).await.unwrap();
    assert_eq!(on.counters, of(108));
    let meta = queue.meta().await.unwrap().unwrap();
    assert_eq!(meta.account, on);

    // One that has begun elsewhere since has another count before it. What it has trimmed stays counted.
    queue.trim(1, at(7), None, None).await.unwrap();
    assert_eq!(
        queue.begin(at(7), at(20), at(20), Counts::Unknown).await,
        Err(QueueError::WrongPredecessor)
    );
    queue.begin(at(9), at(20), at(20), Counts::Unknown).await.unwrap();
    assert_eq!(
        queue.set_base(at(5), of(100)).await,
        Err(QueueError::WrongPredecessor)
    );
    // Who knew what was counted before is told that Redis does not.
    assert_eq!(
        queue.advance(at(20), at(21), of(9), true).await,
        Err(QueueError::WrongPredecessor)
    );
    append(&queue, at(20), &[21, 22]).await;
    append(&queue, at(22), &[23]).await;
    assert_eq!(
        queue.trim(2, at(22), None, None).await,
        Err(QueueError::WrongPredecessor)
    );
    let trimmed = queue.trim(2, at(22), None, Some(of(22))).await.unwrap();
    assert_eq!((trimmed.trimmed, trimmed.base), (of(22), None));
    let known = queue.trim(3, at(23), None, Some(of(23))).await.unwrap();
    assert_eq!(known.records, 0);
    let known = queue
        .begin(at(23), at(23), at(23), Counts::At(of(3)))
        .await
        .unwrap();
    assert_eq!((known.base, known.counters), (Some(of(0)), of(3)));
    assert_eq!(known.trimmed, of(0));
}

/// Records that were skipped together; each has a key of its own.
fn skipped(positions: std::ops::RangeInclusive<u64>) -> Vec<ParkedRecord> {
    let relation = relation();
    let record = |lsn: u64| ParkedRecord {
        id: String::new(),
        keys: vec![lsn.to_string().into_bytes()],
        change: change(lsn, &relation),
        refusal: Refusal {
            class: Class::Application,
            code: "Skipped".into(),
            object: None,
            server_text: String::new(),
            remedy: String::new(),
        },
        first_time: 7,
        last_time: 7,
        attempts: 1,
        unjudged: false,
        superseded: None,
        moved: None,
        completed: None,
        operation: None,
    };
    positions.map(record).collect()
}

async fn listed(queue: &Queue) -> Vec<u64> {
    let mut listed = Vec::new();
    let visit = |one: Listed| listed.push(one.record.change.position.commit.0);
    queue.each_error(visit).await.unwrap();
    listed
}

/// A destination that was put back may have passed a part of what was parked together: only that stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_goes_back_to_where_the_destination_is() {
    let _time = timed("a_pack_goes_back_to_where_the_destination_is");
    let redis = Redis::start().await;
    let queue = queue(&redis).await;
    let packs = queue.pack(&skipped(1..=10)).await.unwrap();
    queue.pack(&skipped(11..=20)).await.unwrap();
    assert!(queue.pack(&skipped(11..=12)).await.is_err(), "parked already");
    let of = |key: u64| [key_hash(key.to_string().as_bytes())].into();
    let woken = queue.wake_keys(packs[0].id, &of(3)).await.unwrap().unwrap();
    assert_eq!(woken.len(), 1);
    assert_eq!(
        queue.wake_keys(packs[0].id, &of(3)).await.unwrap().unwrap(),
        woken
    );
    assert_eq!(listed(&queue).await, (1..=20).collect::<Vec<_>>());
    assert_eq!(queue.meta().await.unwrap().unwrap().parks, 20);

    let has = |lsn| Has {
        position: at(lsn),
        settled: 0,
    };
    let summary = queue.error_summary(has(20)).await.unwrap();
    assert_eq!((summary.count, summary.recent.len()), (20, 5));
    assert_eq!(summary.recent[0].id, "test-e-00000014");
    let Waiting {
        awake, packs, new, ..
    } = queue.settle_errors(has(6), &[]).await.unwrap();
    assert_eq!((awake.len(), packs.len(), new.len()), (6, 0, 0));
    assert_eq!(listed(&queue).await, (1..=6).collect::<Vec<_>>());
    assert_eq!(queue.meta().await.unwrap().unwrap().parks, 6);
    // What comes again is parked again, under other numbers.
    let again = queue.pack(&skipped(7..=20)).await.unwrap();
    assert_eq!(again[0].id.base, 21);
    let waiting = queue.settle_errors(has(20), &[again[0].id]).await.unwrap();
    assert_eq!(
        (waiting.awake.len(), waiting.packs.len(), waiting.new.len()),
        (6, 1, 0)
    );
    let named = queue.error_named("test-e-00000016").await.unwrap().unwrap();
    assert_eq!(named.change.position, at(8));
}

/// What sleeps is chosen and given up as it lies; one that wakes meanwhile is given up alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_gives_packs_up_and_counts_each_record_once() {
    let _time = timed("an_operation_gives_packs_up_and_counts_each_record_once");
    let redis = Redis::start().await;
    let queue = queue(&redis).await;
    queue.pack(&skipped(1..=10)).await.unwrap();
    queue.choose_packs("retry", at(10)).await.unwrap();
    queue.choose("retry", false, &[]).await.unwrap();
    assert_eq!(queue.chosen("retry").await.unwrap().unwrap().selected, 10);
    queue.wake_at(&[at(4), at(5)]).await.unwrap();
    assert_eq!(queue.chosen_positions("retry").await.unwrap(), [at(4), at(5)]);
    assert_eq!(queue.chosen_asleep("retry").await.unwrap(), 8);
    // Another that takes away has all of it.
    queue.choose_packs("discard", at(10)).await.unwrap();
    queue.choose("discard", true, &[at(4), at(5)]).await.unwrap();
    assert_eq!(queue.chosen("retry").await.unwrap().unwrap().skipped, 10);
    assert_eq!(queue.chosen("discard").await.unwrap().unwrap().selected, 10);
    assert_eq!(queue.discard_packs("discard").await.unwrap(), 8);
    assert_eq!(queue.discard_packs("discard").await.unwrap(), 8);
    let (all, positions) = queue.discard("discard", &[at(4), at(5)]).await.unwrap();
    assert_eq!((all, positions.len()), (10, 2));
    assert_eq!(queue.chosen("discard").await.unwrap().unwrap().discarded, 10);
    assert!(listed(&queue).await.is_empty() && queue.packs().await.unwrap().is_empty());
}

/// Redis went back to before a record was woken: no count tells. What replaces it must not be taken for written (I3).
#[tokio::test(flavor = "multi_thread")]
async fn what_sleeps_again_is_woken_before_it_is_marked() {
    let _time = timed("what_sleeps_again_is_woken_before_it_is_marked");
    let redis = Redis::start().await;
    let queue = queue(&redis).await;
    let packs = queue.pack(&skipped(1..=10)).await.unwrap();
    let keys = Keys::new("default", "test");
    let mut client = redis.client().await;
    let mut dump = redis::cmd("DUMP");
    let before: Vec<u8> = dump.arg(&keys.packs).query_async(&mut client).await.unwrap();
    let of_three = [key_hash(b"3")].into();
    queue.wake_keys(packs[0].id, &of_three).await.unwrap();
    let mut restore = redis::cmd("RESTORE");
    restore.arg(&keys.packs).arg(0).arg(before).arg("REPLACE");
    let () = restore.query_async(&mut client).await.unwrap();
    let mut delete = redis::cmd("DEL");
    let () = delete.arg(&keys.errors).query_async(&mut client).await.unwrap();
    let mark = [Mark::Superseded {
        parked: at(3),
        once: Once::Has(at(20)),
    }];
    assert_eq!(queue.mark(&mark).await, Ok(vec![true]), "it is woken once more");
    assert_eq!(queue.mark(&mark).await, Ok(vec![false]));
    assert_eq!(
        queue.errors_at(&[at(3)]).await.unwrap()[0].superseded,
        Some(Once::Has(at(20)))
    );
    // What was given up meanwhile is not marked, and holds nothing up.
    queue.wake_at(&[at(5)]).await.unwrap();
    queue.choose("discard", true, &[at(5)]).await.unwrap();
    queue.discard("discard", &[at(5)]).await.unwrap();
    let both = [5, 6].map(|lsn| Mark::Superseded {
        parked: at(lsn),
        once: Once::Has(at(20)),
    });
    assert_eq!(queue.mark(&both).await, Ok(vec![false, true]));
}

/// After a gap was accepted nobody can tell whether a record was replaced: none of them may be retried, wherever it lies and
/// however far the destination goes back (I3).
#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_never_waits_again() {
    let _time = timed("what_was_set_aside_never_waits_again");
    let redis = Redis::start().await;
    let queue = queue(&redis).await;
    queue.pack(&skipped(1..=10)).await.unwrap();
    queue.pack(&skipped(11..=20)).await.unwrap();
    // Chosen by an operation that was broken off, with one that lies alone.
    queue.choose_packs("discard", at(20)).await.unwrap();
    queue.wake_at(&[at(4)]).await.unwrap();
    queue.choose("discard", true, &[]).await.unwrap();
    let (source, destination, era) = (Origin::new("1", "crm"), Origin::new("2", "erp"), Era::default());
    let accepted = Accepted {
        operation: "accept",
        era: &era,
        from: at(20),
        table: 7,
        source: &source,
        destination: &destination,
        serves: "",
        counters: None,
        left: Left::default(),
        ids: 20,
        set_aside: true,
    };
    queue.accept(&accepted).await.unwrap();
    assert_eq!(queue.discard_packs("discard").await.unwrap(), 0);
    let (given_up, _) = queue.discard("discard", &[at(4)]).await.unwrap();
    assert_eq!(given_up, 0);
    assert_eq!(queue.chosen("discard").await.unwrap().unwrap().skipped, 20);
    // One that wakes is set aside still; so is one at a destination that was put back.
    queue.wake_at(&[at(5)]).await.unwrap();
    queue
        .drop_provisional(Has {
            position: at(15),
            settled: 0,
        })
        .await
        .unwrap();
    assert_eq!(listed(&queue).await, (1..=15).collect::<Vec<_>>());
    let mut waiting = 0;
    let has = Has {
        position: at(15),
        settled: 0,
    };
    let visit = |one: Listed| waiting += u64::from(one.record.waits(has));
    queue.each_error(visit).await.unwrap();
    assert_eq!(waiting, 0);
    let meta = queue.meta().await.unwrap().unwrap();
    assert_eq!((meta.parks, meta.superseded), (0, 0), "they are in no count");
}
