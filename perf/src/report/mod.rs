//! What a run says: one [`Outcome`] per scenario, as JSON, as histograms, as one HTML file, as a table on the terminal. Measures nothing and
//! decides nothing about the run; whether a result counts is in the outcome.

mod json;
mod outcome;
mod progress;

pub use crate::measure::Pressure;
pub use json::to_json;
pub use outcome::{ClientUse, Figure, Line, Outcome, Plot, ServerUse, Verdict, Wire};
pub use progress::Progress;
