package publish

import "github.com/temporal-outbox/relay/internal/relay"

// Who speaks of a code. "HTTP" is whatever answers without an error code: a proxy,
// a load balancer, a firewall.
const (
	fromSNS   = "SNS"
	fromSQS   = "SQS"
	fromBoth  = "SNS, SQS"
	fromRelay = "relay"
	fromHTTP  = "HTTP"
)

// Where it is said what a code means.
const (
	docSNS    = "SNS API, PublishBatch"
	docSQS    = "SQS API, SendMessageBatch"
	docCommon = "AWS common errors"
	docSDK    = "AWS SDK, retry"
	docHTTP   = "RFC 9110"
	docHere   = "this program"
)

// classes is all that is known of error codes, by what is done about them. After a
// change: go test ./internal/publish -run TestErrorsDocument -update
var classes = []row{
	// What passes.
	{
		codes: []string{"InternalError", "InternalFailure", "InternalServerError", "InternalServiceError"},
		from:  fromBoth, class: relay.ClassRetry, source: docSNS,
		why: "A fault inside the service. It also occurs for single entries of a batch.",
	},
	{
		codes: []string{"ServiceUnavailable"}, from: fromBoth, class: relay.ClassRetry, source: docCommon,
		why: "The service, or a part of it, is down for the moment.",
	},
	{
		codes: []string{"RequestTimeout", "RequestAborted"}, from: fromBoth, class: relay.ClassRetry, source: docSDK,
		why: "The request did not arrive in time, or not completely.",
	},
	{
		codes: []string{
			"Throttling", "Throttled", "RequestThrottled", "TooManyRequests", "RequestLimitExceeded", "SlowDown",
			"BandwidthLimitExceeded", "LimitExceeded", "ProvisionedThroughputExceeded", "PriorRequestNotComplete",
			"TransactionInProgress", "EC2Throttled",
		},
		from: fromBoth, class: relay.ClassRetry, throttling: true, source: docSDK,
		why: "More was asked for than the account, the destination or the group may have.",
	},
	{
		codes: []string{"KMSThrottling", "KMS.ThrottlingException", "KmsThrottled"},
		from:  fromBoth, class: relay.ClassRetry, throttling: true, source: docSQS,
		why: "The key service behind an encrypted destination is asked too often.",
	},
	{
		codes: []string{"OverLimit"}, from: fromSQS, class: relay.ClassRetry, throttling: true, source: docSQS,
		why: "The request exceeds one of the queue's limits at this moment.",
	},
	{
		codes: []string{"ExpiredToken", "RequestExpired"}, from: fromBoth, class: relay.ClassRetry, cause: causeCredentials, source: docCommon,
		why: "Temporary credentials have run out, or the request was signed too long ago. The SDK fetches new ones.",
	},
	{
		codes: []string{"RequestTimeTooSkewed"}, from: fromBoth, class: relay.ClassRetry, cause: causeCredentials, source: docSDK,
		why: "The worker's clock is wrong. The SDK corrects for it once it has seen the service's.",
	},
	{
		codes: []string{"HTTP5xx", "HTTP408"}, from: fromHTTP, class: relay.ClassRetry, source: docHTTP,
		why: "Something between the worker and AWS could not pass the request on.",
	},
	{
		codes: []string{"HTTP429"}, from: fromHTTP, class: relay.ClassRetry, throttling: true, source: docHTTP,
		why: "Something between the worker and AWS asks for less.",
	},
	{
		codes: []string{relay.CodeTimeout, relay.CodeConnection}, from: fromRelay, class: relay.ClassRetry, cause: causeNetwork, source: docHere,
		why: "No answer came. The request may have been accepted, so the retry may be a repetition.",
	},
	{
		codes: []string{relay.CodeUnanswered, relay.CodeResponse}, from: fromRelay, class: relay.ClassRetry, source: docHere,
		why: "The response leaves out what became of the event, or cannot be read. It may have been accepted.",
	},
	{
		codes: []string{relay.CodeListing}, from: fromRelay, class: relay.ClassRetry, cause: causeListing, source: docHere,
		why: "An SNS topic is configured by name, and the account's topics are not all listed yet. The next attempt reads on. If it lasts, give the ARN, or allow sns:GetTopicAttributes.",
	},
	{
		codes: []string{relay.CodeNotSent}, from: fromRelay, class: relay.ClassRetry, cause: causeCredentials, source: docHere,
		why: "The request could not be made: the worker has no credentials, for one.",
	},

	// What this destination never accepts.
	{
		codes: []string{"InvalidMessageContents"}, from: fromSQS, class: relay.ClassPoison, splits: true, source: docSQS,
		why: "The body has a character outside of what XML allows.",
	},
	{
		codes: []string{
			"InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid", "ValidationException", "ValidationError",
			"InvalidAttributeValue",
		},
		from: fromBoth, class: relay.ClassPoison, doubtful: true, splits: true, source: docSNS,
		why: "Something in the event is not allowed. On every event, it is rather that the destination is not what the " +
			"configuration takes it for: FIFO or not, say.",
	},
	{
		codes: []string{"HTTP413", "RequestEntityTooLarge", "MessageTooLong"},
		from:  fromBoth + ", " + fromHTTP, class: relay.ClassPoison, splits: true, size: true, source: docHTTP,
		why: "The request is larger than something on the way lets through.",
	},
	{
		codes: []string{relay.CodeTooLarge}, from: fromRelay, class: relay.ClassPoison, source: docHere,
		why: "The event alone exceeds the destination's limit. It is not sent, unless only the service's default limit is known.",
	},
	{
		codes: []string{relay.CodeTooManyAttributes}, from: fromRelay, class: relay.ClassPoison, source: docHere,
		why: "SQS refuses more than ten attributes, and SNS discards such a message on its way to a queue with raw delivery.",
	},
	{
		codes: []string{relay.CodeInvalidCharacter}, from: fromRelay, class: relay.ClassPoison, source: docHere,
		why: "The event has a character that SNS or SQS loses or replaces: its text says which, and where (in bytes, from 0). Or the database cannot convert a text of it to UTF-8: the text of the dead letter names the column and the byte. It is not sent. Correct the producer, then discard the dead letter; a redrive is refused again.",
	},
	{
		codes: []string{relay.CodeInvalidEvent}, from: fromRelay, class: relay.ClassPoison, source: docHere,
		why: "The event breaks a rule of the outbox that no INSERT through the trigger breaks: its text says which. It was written past the trigger (straight to a partition, by a replica, while the trigger was disabled), or changed since, and then replayed. It is not sent. Correct the row as the owner and redrive, or discard the dead letter.",
	},
	{
		codes: []string{relay.CodeBlocked}, from: fromRelay, class: relay.ClassPoison, source: docHere,
		why: "An earlier event of its key is a dead letter, and the topic's onPoison is block.",
	},
	{
		codes: []string{relay.CodeEventMissing}, from: fromRelay, class: relay.ClassPoison, source: docHere,
		why: "The event is pending, but two looks did not find it; the second one was in all partitions. It was deleted, or a restore does not have it, or its partition was detached: attach it again, then redrive. Discard it with `--code EventMissing` only if `starter dead list TOPIC` shows `gone (id …)`, `worker --check` says `ok security`, and no partition is detached: then nothing is left to publish. If it shows an event id instead, the event is there: redrive it.",
	},

	// What nobody but its owner can mend.
	{
		codes: []string{"AuthorizationError", "AccessDenied", "NotAuthorized", "UnauthorizedOperation"},
		from:  fromBoth, class: relay.ClassDestination, cause: causeForbidden, source: docSNS,
		why: "The worker's role, or the destination's policy, does not allow publishing.",
	},
	{
		codes: []string{"NotFound", "ResourceNotFound", "NonExistentQueue", "QueueDoesNotExist", "QueueDeletedRecently"},
		from:  fromBoth, class: relay.ClassDestination, cause: causeMissing, source: docSQS,
		why: "There is no such destination, or not any more.",
	},
	{
		codes: []string{"InvalidAddress"}, from: fromSQS, class: relay.ClassDestination, cause: causeMissing, source: docSQS,
		why: "The queue's URL is not one.",
	},
	{
		codes: []string{"InvalidSecurity"}, from: fromBoth, class: relay.ClassDestination, source: docSQS,
		why: "The destination wants HTTPS and Signature Version 4.",
	},
	{
		codes: []string{"EndpointDisabled", "PlatformApplicationDisabled"}, from: fromSNS, class: relay.ClassDestination, source: docSNS,
		why: "The destination is switched off.",
	},
	{
		codes: []string{"UnsupportedOperation"}, from: fromSQS, class: relay.ClassDestination, source: docSQS,
		why: "The queue does not do this.",
	},
	{
		codes: []string{
			"KMSAccessDenied", "KMS.AccessDeniedException", "KMSDisabled", "KMS.DisabledException",
			"KMSNotFound", "KMS.NotFoundException", "KMSInvalidState", "KMS.InvalidStateException",
			"KMSOptInRequired", "KMS.OptInRequired", "KmsInvalidKeyUsage", "KMS.InvalidKeyUsageException",
		},
		from: fromBoth, class: relay.ClassDestination, cause: causeKey, source: docSQS,
		why: "The key that encrypts the destination is missing, disabled, unfit, or not the worker's to use.",
	},
	{
		codes: []string{"OptInRequired", "SubscriptionRequired"}, from: fromBoth, class: relay.ClassDestination, source: docCommon,
		why: "The account has no access to the service, or to the region.",
	},
	{
		codes: []string{
			"InvalidClientTokenId", "UnrecognizedClient", "SignatureDoesNotMatch", "InvalidSignature", "IncompleteSignature",
			"InvalidAccessKeyId", "MissingAuthenticationToken", "AuthFailure", "InvalidToken",
		},
		from: fromBoth, class: relay.ClassDestination, cause: causeCredentials, source: docCommon,
		why: "The worker's credentials are wrong, or not for this account.",
	},
	{
		codes: []string{"HTTP3xx", "HTTP4xx"}, from: fromHTTP, class: relay.ClassDestination, cause: causeNetwork, source: docHTTP,
		why: "AWS answers with codes, so this is not AWS, but a proxy, a firewall or another server at its address. Its refusal " +
			"is about the sender or the way, not about the event.",
	},
	{
		codes: []string{relay.CodeNoRoute}, from: fromRelay, class: relay.ClassDestination, source: docHere,
		why: "The worker's configuration has no destination for the topic.",
	},
	{
		codes: []string{relay.CodeNoTopic}, from: fromRelay, class: relay.ClassDestination, cause: causeMissing, source: docHere,
		why: "Listing the account's SNS topics did not find the configured name.",
	},

	// What this program did wrong.
	{
		codes: []string{"BatchRequestTooLong"}, from: fromBoth, class: relay.ClassOurs, splits: true, size: true, source: docSQS,
		why: "The events of a request are too large together, because the destination's limit is not known exactly. Smaller " +
			"requests follow. Of one event alone it becomes EventTooLarge.",
	},
	{
		codes: []string{"EmptyBatchRequest", "TooManyEntriesInBatchRequest", "BatchEntryIdsNotDistinct", "InvalidBatchEntryId"},
		from:  fromBoth, class: relay.ClassOurs, source: docSQS,
		why: "The request does not have the shape of a batch.",
	},
	{
		codes: []string{
			"MalformedInput", "MalformedQueryString", "MalformedHttpRequest", "SerializationException", "MissingParameter",
			"InvalidParameterCombination", "InvalidQueryParameter",
		},
		from: fromBoth, class: relay.ClassOurs, splits: true, source: docCommon,
		why: "The service could not read the request. One event may have been written wrongly into it.",
	},
	{
		codes: []string{"InvalidAction", "MissingAction", "UnknownOperation", "InvalidAttributeName"},
		from:  fromBoth, class: relay.ClassOurs, source: docCommon,
		why: "The service does not know what is asked of it. So may an endpoint that is not the service.",
	},
}
