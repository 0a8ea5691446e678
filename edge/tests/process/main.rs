//! The real binary, over the real network stack, as its users meet it: with each driver, with one shard and with two.
//! Loopback only; every server is killed when its test ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod chat;
mod failure;
mod hostile;
mod setup;
mod site;

/// Runs a test in each driver mode and with each number of shards.
macro_rules! everywhere {
    ($($test:path as $name:ident;)+) => {
        mod io_uring_one_shard { $(#[test] fn $name() { $test(crate::site::Mode { driver: "io_uring", shards: 1 }); })+ }
        mod io_uring_two_shards { $(#[test] fn $name() { $test(crate::site::Mode { driver: "io_uring", shards: 2 }); })+ }
        mod epoll_one_shard { $(#[test] fn $name() { $test(crate::site::Mode { driver: "epoll", shards: 1 }); })+ }
        #[cfg(feature = "glommio")]
        mod glommio_one_shard { $(#[test] fn $name() { $test(crate::site::Mode { driver: "glommio", shards: 1 }); })+ }
        #[cfg(feature = "glommio")]
        mod glommio_two_shards { $(#[test] fn $name() { $test(crate::site::Mode { driver: "glommio", shards: 2 }); })+ }
        mod epoll_two_shards { $(#[test] fn $name() { $test(crate::site::Mode { driver: "epoll", shards: 2 }); })+ }
    };
}

everywhere! {
    crate::chat::everybody_sees_the_same as everybody_sees_the_same_over_quic_and_websocket;
    crate::chat::a_change_of_address_is_no_reconnect as a_change_of_address_is_no_reconnect;
    crate::chat::a_restart_loses_nothing as a_restart_loses_nothing;
    crate::chat::unread_agrees as unread_counts_agree_on_all_devices;
    crate::hostile::garbage_harms_nobody as garbage_harms_nobody;
    crate::hostile::each_mistake_has_its_code as each_mistake_has_its_code;
    crate::hostile::a_reader_that_never_reads as a_reader_that_never_reads_is_bounded;
    crate::chat::logging_out_closes as logging_out_closes_the_connection_within_a_second;
    crate::setup::draining_tells_everybody as draining_tells_everybody;
}
