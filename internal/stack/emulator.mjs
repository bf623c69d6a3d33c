// Runs in the emulator's npm prefix. Port 0 lets the kernel choose, so there is
// no port to lose to somebody else; the address goes to our parent.
import { buildApp } from "fauxqs";
import { FifoMap } from "toad-cache";

// The emulator forgets a deduplication id after 10,000 later ones of its queue. SQS
// remembers every one for five minutes, so only those that have expired go.
const set = FifoMap.prototype.set;
FifoMap.prototype.set = function (key, value) {
  this.max = 0; // no limit
  while (this.first !== null && this.first.expiry <= Date.now()) this.evict();
  return set.call(this, key, value);
};

const app = buildApp({ logger: false, defaultRegion: process.env.OUTBOX_REGION });
console.log(await app.listen({ port: 0, host: "127.0.0.1" }));
