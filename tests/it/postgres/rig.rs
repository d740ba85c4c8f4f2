//! The private server itself: it keeps what was committed, and nothing of it outlives its owner.

use std::net::TcpStream;

use crate::postgres_rig::{Cluster, Durability, Stop};

#[test]
fn it_stops_and_comes_back_with_what_was_committed() {
    let mut cluster = Cluster::start(Durability::Full);
    let (database, port) = (cluster.database(), cluster.port());
    database.run("create table kept (n int); insert into kept select generate_series(1, 100)");
    for how in [Stop::Immediate, Stop::Fast] {
        cluster.stop(how);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{how:?}");
        assert!(database.try_ask("select 1").is_err());
        cluster.resume();
        assert_eq!(database.count("kept"), 100, "{how:?}: {}", cluster.log());
    }
    drop(cluster);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}
