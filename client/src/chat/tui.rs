//! The terminal client: a model that keys and updates change, a view that draws it, and a loop between them and the SDK.

mod commands;
mod editor;
mod keys;
mod lines;
mod model;
mod room;
mod run;
mod view;

pub(crate) use run::run;

#[cfg(test)]
mod tests;
