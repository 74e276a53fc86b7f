//! What is written down about the API, compared with its descriptors.

mod errors_doc;
