# Two images: relay (worker and starter; the default) and demo (examples/shop).
#
#   docker build --tag outbox-relay .
#   docker build --target demo --tag outbox-relay-demo .
#   docker build --build-arg VERSION=v0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#
# The build has no .git, so VERSION and REVISION are what the programs, their metric
# outbox_build_info and the image's labels say.
ARG VERSION=devel
ARG REVISION=

# Go compiles for other platforms as fast as for its own, so no platform is emulated.
FROM --platform=$BUILDPLATFORM golang:1.26.8-bookworm AS source
ARG TARGETOS TARGETARCH
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-trimpath GOOS=$TARGETOS GOARCH=$TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .

FROM source AS build-demo
ARG VERSION REVISION
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -ldflags="-s -X github.com/temporal-outbox/relay/internal/telemetry.version=${VERSION} -X github.com/temporal-outbox/relay/internal/telemetry.revision=${REVISION}" \
    -o /out/shop ./examples/shop

FROM source AS build-relay
ARG VERSION REVISION
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -ldflags="-s -X github.com/temporal-outbox/relay/internal/telemetry.version=${VERSION} -X github.com/temporal-outbox/relay/internal/telemetry.revision=${REVISION}" \
    -o /out/ ./worker ./starter

# Distroless has no version tags; nonroot is the user, 65532, and CA certificates
# are all it holds beside.
FROM gcr.io/distroless/static-debian13:nonroot AS demo
ARG VERSION REVISION
LABEL org.opencontainers.image.title="outbox-relay demo" \
      org.opencontainers.image.description="The example shop of outbox-relay" \
      org.opencontainers.image.source="https://github.com/temporal-outbox/relay" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build-demo /out/shop /usr/local/bin/shop
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/shop"]

FROM gcr.io/distroless/static-debian13:nonroot AS relay
ARG VERSION REVISION
LABEL org.opencontainers.image.title="outbox-relay" \
      org.opencontainers.image.description="Publishes the transactional outbox of services on PostgreSQL to SNS and SQS, by Temporal" \
      org.opencontainers.image.source="https://github.com/temporal-outbox/relay" \
      org.opencontainers.image.documentation="https://github.com/temporal-outbox/relay/blob/main/README.md" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build-relay /out/worker /out/starter /usr/local/bin/
USER 65532:65532
CMD ["/usr/local/bin/worker"]
