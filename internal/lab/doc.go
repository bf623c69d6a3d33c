// Package lab holds no code of its own. Its folders test the relay from the
// outside, under load and while everything around it fails:
//
//   - bench measures throughput, latency and cost.
//   - chaos injects faults and checks the promises of docs/delivery.md.
//   - interop runs tests against LocalStack itself, a second emulator of AWS.
//   - simulation is the customers of examples/shop, and the reconciliation.
//
// The programs in localstack and examples/shop start them. No part of the relay may
// import them: internal/layout checks that.
package lab
