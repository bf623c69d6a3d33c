// Runs in the emulator's npm prefix. Port 0 lets the kernel choose, so there is
// no port to lose to somebody else; the address goes to our parent.
import { buildApp } from "fauxqs";

const app = buildApp({ logger: false, defaultRegion: process.env.OUTBOX_REGION });
console.log(await app.listen({ port: 0, host: "127.0.0.1" }));
