//! Compiles `proto/` without protoc, and refuses a method that does not state who may call it and how it is audited.
//!
//! Two outputs: the Rust code of `tasktower.v1`, and `descriptors.bin` with comments and custom options, which reflection
//! serves, the command line prints from, and the access check reads.

use std::{error::Error, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, MethodDescriptor, Value};

const PROTO_ROOT: &str = "proto";
const THIRD_PARTY_ROOT: &str = "proto/third_party";
const PACKAGE_DIR: &str = "proto/tasktower/v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut files: Vec<PathBuf> =
        fs::read_dir(PACKAGE_DIR)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "proto"));
    files.sort();

    let mut compiler = protox::Compiler::new([PROTO_ROOT, THIRD_PARTY_ROOT])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;

    // The typed set loses extension options; only the encoded bytes keep them.
    let descriptors = compiler.encode_file_descriptor_set();
    require_access_rules(&descriptors)?;
    fs::write(out.join("descriptors.bin"), &descriptors)?;

    let mut prost = prost_build::Config::new();
    // Sorted maps: the same message always has the same bytes, so it can be hashed.
    prost.btree_map(["."]).bytes([".tasktower.v1.Blob.data"]);
    // One Status type in the crate: the one the error details helpers work on.
    prost.extern_path(".google.rpc.Status", "::tonic_types::Status");
    tonic_prost_build::configure()
        .codec_path("crate::pb::codec::SizedCodec")
        .compile_fds_with_config(compiler.file_descriptor_set(), prost)?;
    Ok(())
}

/// Deny by default: an RPC without a complete `(tasktower.v1.access)` does not build.
fn require_access_rules(descriptors: &[u8]) -> Result<(), Box<dyn Error>> {
    let pool = DescriptorPool::decode(descriptors)?;
    let access =
        pool.get_extension_by_name("tasktower.v1.access").ok_or("the extension tasktower.v1.access is missing")?;
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let options = method.options();
        let stated = options.get_extension(&access);
        let rule = stated.as_message().ok_or("tasktower.v1.access is not a message")?;
        for field in ["permission", "audit"] {
            let value = rule.get_field_by_name(field);
            if value.as_deref().and_then(Value::as_enum_number).unwrap_or(0) == 0 {
                return Err(format!("{} does not state access.{field}", method.full_name()).into());
            }
        }
        require_resource_field(&method, rule.get_field_by_name("resource").as_deref())?;
    }
    Ok(())
}

/// The resource must be a path of fields of the request that ends in a string.
fn require_resource_field(method: &MethodDescriptor, resource: Option<&Value>) -> Result<(), Box<dyn Error>> {
    let path = resource.and_then(Value::as_str).unwrap_or("");
    let mut message = Some(method.input());
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let field = message
            .as_ref()
            .and_then(|m| m.get_field_by_name(part))
            .ok_or_else(|| format!("{}: access.resource names {path}, which the request lacks", method.full_name()))?;
        message = field.kind().as_message().cloned();
    }
    Ok(())
}
