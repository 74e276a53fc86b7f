//! Deliberate faults: places where a test can crash, stop or break the server, and variants of it that are wrong on
//! purpose. Nothing of it is in a program built without the feature `failpoints`, and a release cannot have the feature.
//!
//! - A [`Point`] is a place on the write path. The environment of the process says what happens there and when
//!   (`point.rs`). The crash lane kills servers exactly between two steps that a signal seldom hits.
//! - A [`Mutant`] is one promise broken (`mutant.rs`). The checker of the tests has to notice every one of them, or it
//!   would not notice a real fault of the same kind.
//!
//! Production code pays one line a place: `Point::BeforeCommit.pass().await?`, `if Mutant::NoFence.is_on()`. Without the
//! feature the first is nothing and the second is `if false`.
//!
//! Why not a crate: the well-kept one (`fail`) pauses by blocking the thread, which here would stop a runtime and not a
//! transaction; it draws without a seed and cannot abort.

mod mutant;
mod point;

pub use self::{mutant::Mutant, point::Point};

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("the feature `failpoints` is for tests: a release must not have it");
