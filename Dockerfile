# The image of the operator and its workers: one static program, and the certificate authorities that it trusts.
# Both architectures: docker buildx build --platform linux/amd64,linux/arm64 .
# `make image` builds the same content without a daemon.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# A program that needs nothing else in its image, with the resolver of glibc.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(uname -m)-unknown-linux-gnu" \
 && cargo build --locked --release --bin tablemap --target "$target" \
 && hack/image-root.sh "target/$target/release/tablemap" /root-of-image

FROM scratch
COPY --from=build /root-of-image /
# As a number, so that Kubernetes can tell that it is not root.
USER 65532:65532
ENTRYPOINT ["/usr/bin/tablemap"]
