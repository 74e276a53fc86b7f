//! Compiles `proto/` without protoc, and refuses a method that does not state who may call it and how it is audited.
//!
//! Three outputs: the Rust code of `tasktower.v1`; `descriptors.bin` with comments and custom options, which reflection
//! serves and the command line prints from; and `scoped.rs`, which says of every request what its caller needs, and where.

use std::{error::Error, fmt::Write as _, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MethodDescriptor, ReflectMessage as _, Value};

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
    fs::write(out.join("scoped.rs"), scoped(&descriptors)?)?;
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

/// What every method states by `(tasktower.v1.access)`, as code. Deny by default: a method without a complete rule does not
/// build.
fn scoped(descriptors: &[u8]) -> Result<String, Box<dyn Error>> {
    let pool = DescriptorPool::decode(descriptors)?;
    let access =
        pool.get_extension_by_name("tasktower.v1.access").ok_or("the extension tasktower.v1.access is missing")?;
    let mut code = String::new();
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let options = method.options();
        let stated = options.get_extension(&access);
        let rule = stated.as_message().ok_or("tasktower.v1.access is not a message")?;
        if permission(rule, "audit").is_none() {
            return Err(format!("{} does not state access.audit", method.full_name()).into());
        }
        write_rule(&mut code, &method, rule)?;
    }
    Ok(code)
}

/// Writes what the server needs to know of one method.
fn write_rule(code: &mut String, method: &MethodDescriptor, rule: &DynamicMessage) -> Result<(), Box<dyn Error>> {
    let needed = permission(rule, "permission")
        .ok_or_else(|| format!("{} does not state access.permission", method.full_name()))?;
    let own = permission(rule, "own");
    let path = rule.get_field_by_name("resource").as_deref().and_then(Value::as_str).unwrap_or("").to_owned();
    let anywhere = rule.get_field_by_name("anywhere").as_deref().and_then(Value::as_bool).unwrap_or(false);
    let place = match (path.is_empty(), anywhere) {
        (false, false) => "Project",
        (true, false) => "Installation",
        (true, true) => "Anywhere",
        (false, true) => return Err(format!("{}: access.anywhere is for no resource", method.full_name()).into()),
    };
    let (request, service) = (method.input(), method.parent_service().full_name().to_owned());
    let marker = if own.is_some() { "ByOwner" } else { "ByPermission" };
    let own = own.map_or("None".to_owned(), |own| format!("Some(Permission::{own})"));
    writeln!(
        code,
        "impl Scoped for crate::pb::{name} {{
    const NEEDS: Needs = Needs {{ method: \"/{service}/{method}\", permission: Permission::{needed}, own: {own}, place: \
         Place::{place} }};
    fn resource(&self) -> &str {{ {expression} }}
}}
impl {marker} for crate::pb::{name} {{}}",
        name = request.name(),
        method = method.name(),
        expression = resource(method, &path)?,
    )?;
    Ok(())
}

/// The variant of the enum a rule names, as the domain spells it: `TasksRead`. None if it names none.
fn permission(rule: &DynamicMessage, field: &str) -> Option<String> {
    let number = rule.get_field_by_name(field)?.as_enum_number().filter(|number| *number != 0)?;
    let kind = rule.descriptor().get_field_by_name(field)?.kind();
    let values = kind.as_enum()?;
    let name = values.get_value(number)?.name().to_lowercase();
    let words = name.split('_').skip(1);
    Some(words.map(|word| word[..1].to_uppercase() + &word[1..]).collect())
}

/// The expression that reads the resource: it must be a path of fields of the request that ends in a string.
fn resource(method: &MethodDescriptor, path: &str) -> Result<String, Box<dyn Error>> {
    if path.is_empty() {
        return Ok("\"\"".to_owned());
    }
    let lacks = || format!("{}: access.resource names {path}, which is no text of the request", method.full_name());
    let mut message = Some(method.input());
    let mut fields: Vec<FieldDescriptor> = Vec::new();
    for part in path.split('.') {
        let field = message.as_ref().and_then(|m| m.get_field_by_name(part)).ok_or_else(lacks)?;
        message = field.kind().as_message().cloned();
        fields.push(field);
    }
    let (last, outer) = fields.split_last().ok_or_else(lacks)?;
    if last.kind() != prost_reflect::Kind::String || fields.iter().any(FieldDescriptor::is_list) {
        return Err(lacks().into());
    }
    Ok(match outer {
        [] => format!("&self.{}", last.name()),
        [outer] => format!("self.{}.as_ref().map_or(\"\", |message| &message.{})", outer.name(), last.name()),
        _ => return Err(format!("{}: access.resource may go one message deep", method.full_name()).into()),
    })
}
