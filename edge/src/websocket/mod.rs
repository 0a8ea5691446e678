//! WebSocket on a shard (RFC 6455, server role, binary messages only, no extensions): the codec, and the session that continues the
//! TLS connection which the control plane accepted.
