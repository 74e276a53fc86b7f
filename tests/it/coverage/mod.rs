//! What is written down about the API, compared with its descriptors.

mod audit_actions;
mod errors_doc;
