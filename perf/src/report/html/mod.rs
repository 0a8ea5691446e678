//! The report as one HTML file that needs nothing else: no script, no font, no network. Looks right on a phone and in the dark.

mod page;
mod parts;
mod section;

pub(super) use page::page;
