//! Real servers for the tests. Each has free ports and a temporary folder, and ends when its value is dropped.
// Every file in tests/ is a program of its own, and none of them uses all of this.
#![allow(dead_code)]

pub mod apiserver;
pub mod audit;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod collector;
pub mod etcd;
pub mod folder;
pub mod http;
pub mod load;
pub mod operations;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod records;
pub mod redis;
pub mod rig;
pub mod sentinel;
pub mod timing;
pub mod wait;
