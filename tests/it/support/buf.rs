//! `buf curl`: a client that knows nothing but reflection.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

use super::{credentials, missing, repository, server::Server};

pub struct Buf {
    program: PathBuf,
}

impl Buf {
    /// None, after saying so, when it is not installed.
    pub fn find() -> Option<Buf> {
        let program = repository().join("target/tools/bin/buf");
        if program.exists() {
            return Some(Buf { program });
        }
        missing::report("buf", "Run scripts/setup.sh buf");
        None
    }

    /// Calls `method`, such as `tasktower.v1.TaskService/GetTask`, and answers the responses (one, unless it is a
    /// stream that ends) or what buf says of the error.
    pub fn curl(&self, server: &Server, method: &str, request: &Value) -> Result<Vec<Value>, String> {
        let output = self.curl_command(server, method, request).output().expect("buf runs");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::Deserializer::from_slice(&output.stdout)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| format!("buf printed no JSON: {error}"))
    }

    /// The same as a command, for a stream that does not end (`Process::spawn`).
    pub fn curl_command(&self, server: &Server, method: &str, request: &Value) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["curl", "--protocol", "grpc", "--http2-prior-knowledge"])
            .args(["--header", &format!("x-api-key: {}", credentials::key()), "--data"])
            .arg(request.to_string())
            .arg(format!("{}/{method}", server.endpoint()));
        command
    }
}
