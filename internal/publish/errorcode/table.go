package errorcode

import "github.com/temporal-outbox/relay/internal/relay"

// Where a code comes from. "HTTP" stands for everything that answers without an error code:
// a proxy, a load balancer, a firewall.
const (
	fromSNS   = "SNS"
	fromSQS   = "SQS"
	fromBoth  = "SNS, SQS"
	fromRelay = "relay"
	fromHTTP  = "HTTP"
)

// The documents that explain the codes.
const (
	docSNS    = "SNS API, PublishBatch"
	docSQS    = "SQS API, SendMessageBatch"
	docCommon = "AWS common errors"
	docSDK    = "AWS SDK, retry"
	docHTTP   = "RFC 9110"
	docHere   = "this program"
)

// table has one row for all codes of one meaning, grouped by class. After a change, run
// go test ./internal/publish/errorcode -run TestErrorsDocument -update
var table = []Meaning{
	// Faults that pass.
	{
		Codes: []string{"InternalError", "InternalFailure", "InternalServerError", "InternalServiceError"},
		From:  fromBoth, Class: relay.ClassRetry, Source: docSNS,
		Why: "A fault inside the service. It also occurs for single entries of a batch.",
	},
	{
		Codes: []string{"ServiceUnavailable"}, From: fromBoth, Class: relay.ClassRetry, Source: docCommon,
		Why: "The service, or a part of it, is down for the moment.",
	},
	{
		Codes: []string{"RequestTimeout", "RequestAborted"}, From: fromBoth, Class: relay.ClassRetry, Source: docSDK,
		Why: "The request did not arrive in time, or not completely.",
	},
	{
		Codes: []string{
			"Throttling", "Throttled", "RequestThrottled", "TooManyRequests", "RequestLimitExceeded", "SlowDown",
			"BandwidthLimitExceeded", "LimitExceeded", "ProvisionedThroughputExceeded", "PriorRequestNotComplete",
			"TransactionInProgress", "EC2Throttled",
		},
		From: fromBoth, Class: relay.ClassRetry, Throttling: true, Source: docSDK,
		Why: "More was asked for than the account, the destination or the group may have.",
	},
	{
		Codes: []string{"KMSThrottling", "KMS.ThrottlingException", "KmsThrottled"},
		From:  fromBoth, Class: relay.ClassRetry, Throttling: true, Source: docSQS,
		Why: "The key service behind an encrypted destination is asked too often.",
	},
	{
		Codes: []string{"OverLimit"}, From: fromSQS, Class: relay.ClassRetry, Throttling: true, Source: docSQS,
		Why: "The request exceeds one of the queue's limits at this moment.",
	},
	{
		Codes: []string{"ExpiredToken", "RequestExpired"}, From: fromBoth, Class: relay.ClassRetry, Cause: CauseCredentials, Source: docCommon,
		Why: "Temporary credentials have run out, or the request was signed too long ago. The SDK fetches new ones.",
	},
	{
		Codes: []string{"RequestTimeTooSkewed"}, From: fromBoth, Class: relay.ClassRetry, Cause: CauseCredentials, Source: docSDK,
		Why: "The worker's clock is wrong. The SDK corrects for it once it has seen the service's.",
	},
	{
		Codes: []string{"HTTP5xx", "HTTP408"}, From: fromHTTP, Class: relay.ClassRetry, Source: docHTTP,
		Why: "Something between the worker and AWS could not pass the request on.",
	},
	{
		Codes: []string{"HTTP429"}, From: fromHTTP, Class: relay.ClassRetry, Throttling: true, Source: docHTTP,
		Why: "Something between the worker and AWS asks for less.",
	},
	{
		Codes: []string{relay.CodeTimeout, relay.CodeConnection}, From: fromRelay, Class: relay.ClassRetry, Cause: CauseNetwork, Source: docHere,
		Why: "No answer came. The request may have been accepted, so the retry may be a repetition.",
	},
	{
		Codes: []string{relay.CodeUnanswered, relay.CodeResponse}, From: fromRelay, Class: relay.ClassRetry, Source: docHere,
		Why: "The response leaves out what became of the event, or cannot be read. It may have been accepted.",
	},
	{
		Codes: []string{relay.CodeListing}, From: fromRelay, Class: relay.ClassRetry, Cause: CauseListing, Source: docHere,
		Why: "An SNS topic is configured by name, and the account's topics are not all listed yet. The next attempt reads on. If it lasts, give the ARN, or allow sns:GetTopicAttributes.",
	},
	{
		Codes: []string{relay.CodeNotSent}, From: fromRelay, Class: relay.ClassRetry, Cause: CauseCredentials, Source: docHere,
		Why: "The request could not be made: the worker has no credentials, for one.",
	},

	// Events that the destination never accepts.
	{
		Codes: []string{"InvalidMessageContents"}, From: fromSQS, Class: relay.ClassPoison, Divides: true, Source: docSQS,
		Why: "The body has a character outside of what XML allows.",
	},
	{
		Codes: []string{
			"InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid", "ValidationException", "ValidationError",
			"InvalidAttributeValue",
		},
		From: fromBoth, Class: relay.ClassPoison, Ambiguous: true, Divides: true, Source: docSNS,
		Why: "Something in the event is not allowed. On every event, it is rather that the destination is not what the " +
			"configuration takes it for: FIFO or not, say.",
	},
	{
		Codes: []string{"HTTP413", "RequestEntityTooLarge", "MessageTooLong"},
		From:  fromBoth + ", " + fromHTTP, Class: relay.ClassPoison, Divides: true, Size: true, Source: docHTTP,
		Why: "The request is larger than something on the way lets through.",
	},
	{
		Codes: []string{relay.CodeTooLarge}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "The event alone exceeds the destination's limit. It is not sent, unless only the service's default limit is known.",
	},
	{
		Codes: []string{relay.CodeTooManyAttributes}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "SQS refuses more than ten attributes, and SNS discards such a message on its way to a queue with raw delivery.",
	},
	{
		Codes: []string{relay.CodeInvalidCharacter}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "The event has a character that SNS or SQS loses or replaces: its text says which, and where (in bytes, from 0). Or the database cannot convert a text of it to UTF-8: the text of the dead letter names the column and the byte. It is not sent. Correct the producer, then discard the dead letter; a redrive is refused again.",
	},
	{
		Codes: []string{relay.CodeInvalidEvent}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "The event breaks a rule of the outbox that no INSERT through the trigger breaks: its text says which. It was written past the trigger (straight to a partition, by a replica, while the trigger was disabled), or changed since, and then replayed. It is not sent. Correct the row as the owner and redrive, or discard the dead letter.",
	},
	{
		Codes: []string{relay.CodeBlocked}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "An earlier event of its key is a dead letter, and the topic's onPoison is block.",
	},
	{
		Codes: []string{relay.CodeEventMissing}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "The event is pending, but two looks did not find it; the second one was in all partitions. It was deleted, or a restore does not have it, or its partition was detached: attach it again, then redrive. Discard it with `--code EventMissing` only if `starter dead list TOPIC` shows `gone (id …)`, `worker --check` says `ok security`, and no partition is detached: then nothing is left to publish. If it shows an event id instead, the event is there: redrive it.",
	},

	// Destinations that only their owner can mend.
	{
		Codes: []string{"AuthorizationError", "AccessDenied", "NotAuthorized", "UnauthorizedOperation"},
		From:  fromBoth, Class: relay.ClassDestination, Cause: CauseForbidden, Source: docSNS,
		Why: "The worker's role, or the destination's policy, does not allow publishing.",
	},
	{
		Codes: []string{"NotFound", "ResourceNotFound", "NonExistentQueue", "QueueDoesNotExist", "QueueDeletedRecently"},
		From:  fromBoth, Class: relay.ClassDestination, Cause: CauseMissing, Source: docSQS,
		Why: "There is no such destination, or not any more.",
	},
	{
		Codes: []string{"InvalidAddress"}, From: fromSQS, Class: relay.ClassDestination, Cause: CauseMissing, Source: docSQS,
		Why: "The queue's URL is not one.",
	},
	{
		Codes: []string{"InvalidSecurity"}, From: fromBoth, Class: relay.ClassDestination, Source: docSQS,
		Why: "The destination wants HTTPS and Signature Version 4.",
	},
	{
		Codes: []string{"EndpointDisabled", "PlatformApplicationDisabled"}, From: fromSNS, Class: relay.ClassDestination, Source: docSNS,
		Why: "The destination is switched off.",
	},
	{
		Codes: []string{"UnsupportedOperation"}, From: fromSQS, Class: relay.ClassDestination, Source: docSQS,
		Why: "The queue does not do this.",
	},
	{
		Codes: []string{
			"KMSAccessDenied", "KMS.AccessDeniedException", "KMSDisabled", "KMS.DisabledException",
			"KMSNotFound", "KMS.NotFoundException", "KMSInvalidState", "KMS.InvalidStateException",
			"KMSOptInRequired", "KMS.OptInRequired", "KmsInvalidKeyUsage", "KMS.InvalidKeyUsageException",
		},
		From: fromBoth, Class: relay.ClassDestination, Cause: CauseKey, Source: docSQS,
		Why: "The key that encrypts the destination is missing, disabled, unfit, or not the worker's to use.",
	},
	{
		Codes: []string{"OptInRequired", "SubscriptionRequired"}, From: fromBoth, Class: relay.ClassDestination, Source: docCommon,
		Why: "The account has no access to the service, or to the region.",
	},
	{
		Codes: []string{
			"InvalidClientTokenId", "UnrecognizedClient", "SignatureDoesNotMatch", "InvalidSignature", "IncompleteSignature",
			"InvalidAccessKeyId", "MissingAuthenticationToken", "AuthFailure", "InvalidToken",
		},
		From: fromBoth, Class: relay.ClassDestination, Cause: CauseCredentials, Source: docCommon,
		Why: "The worker's credentials are wrong, or not for this account.",
	},
	{
		Codes: []string{"HTTP3xx", "HTTP4xx"}, From: fromHTTP, Class: relay.ClassDestination, Cause: CauseNetwork, Source: docHTTP,
		Why: "AWS answers with codes, so this is not AWS, but a proxy, a firewall or another server at its address. Its refusal " +
			"is about the sender or the way, not about the event.",
	},
	{
		Codes: []string{relay.CodeNoRoute}, From: fromRelay, Class: relay.ClassDestination, Source: docHere,
		Why: "The worker's configuration has no destination for the topic.",
	},
	{
		Codes: []string{relay.CodeNoTopic}, From: fromRelay, Class: relay.ClassDestination, Cause: CauseMissing, Source: docHere,
		Why: "Listing the account's SNS topics did not find the configured name.",
	},

	// Mistakes of this program.
	{
		Codes: []string{"BatchRequestTooLong"}, From: fromBoth, Class: relay.ClassOurs, Divides: true, Size: true, Source: docSQS,
		Why: "The events of a request are too large together, because the destination's limit is not known exactly. Smaller " +
			"requests follow. Of one event alone it becomes EventTooLarge.",
	},
	{
		Codes: []string{"EmptyBatchRequest", "TooManyEntriesInBatchRequest", "BatchEntryIdsNotDistinct", "InvalidBatchEntryId"},
		From:  fromBoth, Class: relay.ClassOurs, Source: docSQS,
		Why: "The request does not have the shape of a batch.",
	},
	{
		Codes: []string{
			"MalformedInput", "MalformedQueryString", "MalformedHttpRequest", "SerializationException", "MissingParameter",
			"InvalidParameterCombination", "InvalidQueryParameter",
		},
		From: fromBoth, Class: relay.ClassOurs, Divides: true, Source: docCommon,
		Why: "The service could not read the request. One event may have been written wrongly into it.",
	},
	{
		Codes: []string{"InvalidAction", "MissingAction", "UnknownOperation", "InvalidAttributeName"},
		From:  fromBoth, Class: relay.ClassOurs, Source: docCommon,
		Why: "The service does not know the requested action. An endpoint that is not the service may answer this, too.",
	},
}
