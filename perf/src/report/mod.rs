//! What a run says: one [`Outcome`] per scenario, as JSON, as histograms, as one HTML file, as a table on the terminal. Measures nothing and
//! decides nothing about the run; whether a result counts is in the outcome.

mod axis;
mod diff;
mod folder;
mod hgrm;
mod html;
mod json;
mod outcome;
mod plot;
mod progress;
mod table;
mod words;

pub use crate::measure::Pressure;
pub use diff::{Change, changes, diff};
pub use folder::write_folder;
pub use hgrm::hgrm;
pub use json::{to_json, to_json_all};
pub use outcome::{ClientUse, Figure, Line, Outcome, Plot, ServerUse, Verdict, Wire};
pub use progress::Progress;
pub use table::{markdown, print_table, text};
