//! The floors of this machine: what the parts of a delivery cost when nothing else is done. A figure of a run is divided by these, taken in
//! the same run, because absolute times move by 1.4-2x on shared machines. Being written.
