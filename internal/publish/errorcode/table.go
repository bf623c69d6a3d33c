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

// table has one row for all codes of one meaning, grouped by class. The document has one row
// for each code, so Why has to be short. After a change, run
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
		Why: "The service, or a part of it, is down at the moment.",
	},
	{
		Codes: []string{"RequestTimeout", "RequestAborted"}, From: fromBoth, Class: relay.ClassRetry, Source: docSDK,
		Why: "The request did not arrive in time, or arrived incomplete.",
	},
	{
		Codes: []string{
			"Throttling", "Throttled", "RequestThrottled", "TooManyRequests", "RequestLimitExceeded", "SlowDown",
			"BandwidthLimitExceeded", "LimitExceeded", "ProvisionedThroughputExceeded", "PriorRequestNotComplete",
			"TransactionInProgress", "EC2Throttled",
		},
		From: fromBoth, Class: relay.ClassRetry, Throttling: true, Source: docSDK,
		Why: "The requests exceed a quota of the account, the destination or the message group.",
	},
	{
		Codes: []string{"KMSThrottling", "KMS.ThrottlingException", "KmsThrottled"},
		From:  fromBoth, Class: relay.ClassRetry, Throttling: true, Source: docSQS,
		Why: "The destination is encrypted, and KMS gets too many requests.",
	},
	{
		Codes: []string{"OverLimit"}, From: fromSQS, Class: relay.ClassRetry, Throttling: true, Source: docSQS,
		Why: "The request exceeds one of the queue's limits at the moment.",
	},
	{
		Codes: []string{"ExpiredToken", "RequestExpired"}, From: fromBoth, Class: relay.ClassRetry, Cause: CauseCredentials, Source: docCommon,
		Why: "Temporary credentials have expired, or the request was signed too long ago. The SDK fetches new ones.",
	},
	{
		Codes: []string{"RequestTimeTooSkewed"}, From: fromBoth, Class: relay.ClassRetry, Cause: CauseCredentials, Source: docSDK,
		Why: "The worker's clock is wrong. The SDK corrects the time after the service's first answer.",
	},
	{
		Codes: []string{"HTTP5xx", "HTTP408"}, From: fromHTTP, Class: relay.ClassRetry, Source: docHTTP,
		Why: "A server between the worker and AWS could not forward the request.",
	},
	{
		Codes: []string{"HTTP429"}, From: fromHTTP, Class: relay.ClassRetry, Throttling: true, Source: docHTTP,
		Why: "A server between the worker and AWS asks for fewer requests.",
	},
	{
		Codes: []string{relay.CodeTimeout, relay.CodeConnection}, From: fromRelay, Class: relay.ClassRetry, Cause: CauseNetwork, Source: docHere,
		Why: "No answer came. The destination may have accepted the request: a retry may repeat the message.",
	},
	{
		Codes: []string{relay.CodeUnanswered}, From: fromRelay, Class: relay.ClassRetry, Source: docHere,
		Why: "The response does not mention the event. The destination may have accepted it.",
	},
	{
		Codes: []string{relay.CodeResponse}, From: fromRelay, Class: relay.ClassRetry, Source: docHere,
		Why: "The relay cannot read the response. The destination may have accepted the event.",
	},
	{
		Codes: []string{relay.CodeListing}, From: fromRelay, Class: relay.ClassRetry, Cause: CauseListing, Source: docHere,
		Why: "The relay has not yet listed all SNS topics of the account.",
		Notes: []string{
			"The configuration gives an SNS topic by its name, so the relay looks for the name in the list. The next attempt continues the list.",
			"If it lasts: give the ARN of the SNS topic, or allow `sns:GetTopicAttributes`.",
		},
	},
	{
		Codes: []string{relay.CodeNotSent}, From: fromRelay, Class: relay.ClassRetry, Cause: CauseCredentials, Source: docHere,
		Why: "The relay could not send the request. For example, the worker has no credentials.",
	},

	// Events that the destination never accepts.
	{
		Codes: []string{"InvalidMessageContents"}, From: fromSQS, Class: relay.ClassPoison, Divides: true, Source: docSQS,
		Why: "The body has a character that XML does not allow.",
	},
	{
		Codes: []string{
			"InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid", "ValidationException", "ValidationError",
			"InvalidAttributeValue",
		},
		From: fromBoth, Class: relay.ClassPoison, Ambiguous: true, Divides: true, Source: docSNS,
		Why: "The destination does not allow a value in the event.",
		Notes: []string{
			"If the destination refuses every event with this code, the configuration is probably wrong about the destination. " +
				"For example, the configuration names a FIFO destination, and the destination is a standard one.",
		},
	},
	{
		Codes: []string{"HTTP413", "RequestEntityTooLarge", "MessageTooLong"},
		From:  fromBoth + ", " + fromHTTP, Class: relay.ClassPoison, Divides: true, Size: true, Source: docHTTP,
		Why: "The destination, or a server before it, does not accept a request of this size.",
	},
	{
		Codes: []string{relay.CodeTooLarge}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "The event alone exceeds the destination's size limit.",
		Notes: []string{
			"The relay does not send such an event. If the relay knows only the service's default limit, it sends the event, and the destination decides.",
		},
	},
	{
		Codes: []string{relay.CodeTooManyAttributes}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "SQS refuses more than ten attributes. SNS discards such a message for a queue with raw delivery.",
	},
	{
		Codes: []string{relay.CodeInvalidCharacter}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "The event has a character that SNS, SQS or the database cannot handle.",
		Notes: []string{
			"SNS or SQS would lose or replace the character: the text of the dead letter names the character and its position (in bytes, from 0).",
			"Or the database cannot convert a text of the event to UTF-8: the text of the dead letter names the column and the byte.",
			"The relay does not send the event. Correct the producer, then discard the dead letter. After a redrive, the event becomes a dead letter again.",
		},
	},
	{
		Codes: []string{relay.CodeInvalidEvent}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "The event breaks a rule of the outbox that the trigger enforces.",
		Notes: []string{
			"The text of the dead letter names the rule. The relay does not send the event.",
			"An INSERT through the trigger cannot break the rule. Either the event was written without the trigger (straight to a partition, by a replica, " +
				"or while the trigger was disabled), or its row was changed later and the event was replayed.",
			"Correct the row as the owner of the table, then redrive. Or discard the dead letter.",
		},
	},
	{
		Codes: []string{relay.CodeBlocked}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "An earlier event of the key is a dead letter, and the topic has `onPoison: block`.",
	},
	{
		Codes: []string{relay.CodeEventMissing}, From: fromRelay, Class: relay.ClassPoison, Source: docHere,
		Why: "The event is pending, but its row in `outbox.event` is missing.",
		Notes: []string{
			"The relay looked for the row twice. The second look was in all partitions.",
			"The event was deleted, or a restored database does not have it, or its partition was detached. If a partition was detached, attach it again, then redrive.",
			"If `starter dead list TOPIC` shows an event id, the event is there: redrive it.",
			"Discard the dead letters with `--code EventMissing` only if all of this is true: `starter dead list TOPIC` shows `gone (id …)`, " +
				"`worker --check` says `ok security`, and no partition is detached. Then the relay has nothing left to publish.",
		},
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
		Why: "The destination does not exist, or it was deleted.",
	},
	{
		Codes: []string{"InvalidAddress"}, From: fromSQS, Class: relay.ClassDestination, Cause: CauseMissing, Source: docSQS,
		Why: "The URL of the queue is not valid.",
	},
	{
		Codes: []string{"InvalidSecurity"}, From: fromBoth, Class: relay.ClassDestination, Source: docSQS,
		Why: "The destination requires HTTPS and Signature Version 4.",
	},
	{
		Codes: []string{"EndpointDisabled", "PlatformApplicationDisabled"}, From: fromSNS, Class: relay.ClassDestination, Source: docSNS,
		Why: "The destination is disabled.",
	},
	{
		Codes: []string{"UnsupportedOperation"}, From: fromSQS, Class: relay.ClassDestination, Source: docSQS,
		Why: "The queue does not support the request.",
	},
	{
		Codes: []string{"KMSAccessDenied", "KMS.AccessDeniedException"}, From: fromBoth, Class: relay.ClassDestination, Cause: CauseKey, Source: docSQS,
		Why: "The worker may not use the key that encrypts the destination.",
	},
	{
		Codes: []string{"KMSDisabled", "KMS.DisabledException"}, From: fromBoth, Class: relay.ClassDestination, Cause: CauseKey, Source: docSQS,
		Why: "The key that encrypts the destination is disabled.",
	},
	{
		Codes: []string{"KMSNotFound", "KMS.NotFoundException"}, From: fromBoth, Class: relay.ClassDestination, Cause: CauseKey, Source: docSQS,
		Why: "The key that encrypts the destination does not exist.",
	},
	{
		Codes: []string{"KMSInvalidState", "KMS.InvalidStateException"}, From: fromBoth, Class: relay.ClassDestination, Cause: CauseKey, Source: docSQS,
		Why: "The key that encrypts the destination is in a state in which KMS cannot use it.",
	},
	{
		Codes: []string{"KMSOptInRequired", "KMS.OptInRequired"}, From: fromBoth, Class: relay.ClassDestination, Cause: CauseKey, Source: docSQS,
		Why: "The account has no access to KMS.",
	},
	{
		Codes: []string{"KmsInvalidKeyUsage", "KMS.InvalidKeyUsageException"}, From: fromBoth, Class: relay.ClassDestination, Cause: CauseKey, Source: docSQS,
		Why: "The usage or the type of the key does not allow encryption.",
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
		Why: "The worker's credentials are wrong, or belong to another account.",
	},
	{
		Codes: []string{"HTTP3xx", "HTTP4xx"}, From: fromHTTP, Class: relay.ClassDestination, Cause: CauseNetwork, Source: docHTTP,
		Why: "A proxy, a firewall or another server at the address of AWS refuses the request.",
		Notes: []string{
			"AWS answers with codes, so this answer is not from AWS. The server refuses the sender or the route, not the event.",
		},
	},
	{
		Codes: []string{relay.CodeNoRoute}, From: fromRelay, Class: relay.ClassDestination, Source: docHere,
		Why: "The worker's configuration has no destination for the topic.",
	},
	{
		Codes: []string{relay.CodeNoTopic}, From: fromRelay, Class: relay.ClassDestination, Cause: CauseMissing, Source: docHere,
		Why: "The account has no SNS topic with the configured name.",
	},

	// Mistakes of this program.
	{
		Codes: []string{"BatchRequestTooLong"}, From: fromBoth, Class: relay.ClassOurs, Divides: true, Size: true, Source: docSQS,
		Why: "The events of a request are too large together.",
		Notes: []string{
			"The relay does not know the destination's limit exactly. It sends smaller requests from then on.",
			"If the request has only one event, the code becomes [`EventTooLarge`](#eventtoolarge).",
		},
	},
	{
		Codes: []string{"EmptyBatchRequest", "TooManyEntriesInBatchRequest", "BatchEntryIdsNotDistinct", "InvalidBatchEntryId"},
		From:  fromBoth, Class: relay.ClassOurs, Source: docSQS,
		Why: "The request is not a valid batch.",
	},
	{
		Codes: []string{
			"MalformedInput", "MalformedQueryString", "MalformedHttpRequest", "SerializationException", "MissingParameter",
			"InvalidParameterCombination", "InvalidQueryParameter",
		},
		From: fromBoth, Class: relay.ClassOurs, Divides: true, Source: docCommon,
		Why: "The service could not read the request. The relay may have encoded one event wrongly.",
	},
	{
		Codes: []string{"InvalidAction", "MissingAction", "UnknownOperation", "InvalidAttributeName"},
		From:  fromBoth, Class: relay.ClassOurs, Source: docCommon,
		Why: "The service does not know the action. A server that is not the service may also answer this.",
	},
}
