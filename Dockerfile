# syntax=docker/dockerfile:1
FROM rust:1.95-trixie AS builder
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin dogwatch \
    && install -D target/release/dogwatch /out/dogwatch \
    && mkdir -p /out/data

FROM gcr.io/distroless/cc-debian13:nonroot
ARG DOGWATCH_VERSION=0.1.0
LABEL org.opencontainers.image.title="dogwatch" \
      org.opencontainers.image.version="${DOGWATCH_VERSION}" \
      org.opencontainers.image.licenses="MIT"
COPY --from=builder /out/dogwatch /usr/local/bin/dogwatch
# A named volume takes its owner from the folder it covers.
COPY --from=builder --chown=65532:65532 /out/data /var/lib/dogwatch
ENV DOGWATCH_DATA_DIR=/var/lib/dogwatch
VOLUME /var/lib/dogwatch
USER 65532:65532
EXPOSE 7411 7412
STOPSIGNAL SIGTERM
# There is no shell in this image: the binary asks its own /readyz.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/dogwatch", "healthcheck"]
RUN ["/usr/local/bin/dogwatch", "--version"]
ENTRYPOINT ["/usr/local/bin/dogwatch"]
CMD ["up"]
