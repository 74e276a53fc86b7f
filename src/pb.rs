//! The wire types of `tasktower.v1`, generated from `proto/`. Only `api/`, the client side and the command line use them.

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; its documentation is that of the proto files"
)]
mod generated {
    tonic::include_proto!("tasktower.v1");
}
pub use generated::*;

pub(crate) mod codec;

/// Every file of the API with comments and custom options, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
