//! Memory that the kernel holds for TCP sockets: it is in no process's RSS, and a WebSocket server needs it all the same. From the slab
//! caches, which only root may read.

/// Caches that a TCP connection takes from: its socket, its inode and file, heads of what is queued. Names differ by address family.
/// Its directory entry (192 bytes) is left out: that cache moves by thousands with every file anybody looks at.
const CACHES: [&str; 5] = ["TCP", "TCPv6", "sock_inode_cache", "filp", "skbuff_head_cache"];

/// Memory of TCP sockets of the whole machine, with the inodes and files they are. Unit: bytes. `None` where the kernel does not let it be
/// read; the difference of two looks is what connections between them took, both ends.
#[must_use]
pub fn kernel_tcp_bytes() -> Option<u64> {
    slab_bytes(&std::fs::read_to_string("/proc/slabinfo").ok()?)
}

/// Objects in use times their size, over the caches of a connection. `None` when the text has none of them.
pub(super) fn slab_bytes(slabinfo: &str) -> Option<u64> {
    let lines = slabinfo.lines().map(|line| line.split_whitespace());
    let sizes = lines.filter_map(|mut words| {
        let name = words.next()?;
        let (used, _all, size) = (words.next()?, words.next()?, words.next()?);
        CACHES.contains(&name).then_some(())?;
        Some(used.parse::<u64>().ok()? * size.parse::<u64>().ok()?)
    });
    let sizes: Vec<u64> = sizes.collect();
    (!sizes.is_empty()).then(|| sizes.iter().sum())
}
