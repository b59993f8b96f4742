//! Certificates of an authority that lives as long as a test.

use super::folder::{is_root, run, temporary};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::{fs::write, process::Command};
use tempfile::TempDir;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub certificate: String,
}

/// A certificate and its key, in PEM.
pub struct Signed {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "tests");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// For a server or client of this name or address.
    pub fn sign(&self, name: &str) -> Signed {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Signed {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// `ca.crt`, `server.crt` and `server.key` for a server at 127.0.0.1 that runs as `user`.
    pub fn server(&self, user: &str) -> TempDir {
        let folder = temporary(user);
        let signed = self.sign("127.0.0.1");
        let file = |name: &str, text: &str| write(folder.path().join(name), text).unwrap();
        file("ca.crt", &self.certificate);
        file("server.crt", &signed.certificate);
        file("server.key", &signed.key);
        run(Command::new("chmod")
            .arg("0600")
            .arg(folder.path().join("server.key")));
        if is_root() {
            run(Command::new("chown")
                .arg("-R")
                .arg(format!("{user}:"))
                .arg(folder.path()));
        }
        folder
    }
}
