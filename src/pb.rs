//! The wire types of `tasktower.v1`, generated from `proto/`. Only `api/`, the client side and the command line use them.

#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod generated {
    tonic::include_proto!("tasktower.v1");
}
pub use generated::*;

/// Every file of the API with comments and custom options, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
