package errorcode

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"
	smithytraits "github.com/aws/smithy-go/traits"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestTable_HasOneRowForEachCode(t *testing.T) {
	rows := make(map[string]int)
	for i, r := range table {
		for _, code := range r.Codes {
			n := normal(code)
			if other, ok := rows[n]; ok {
				t.Errorf("%s is in row %v and in %v", code, table[other].Codes, r.Codes)
			}
			rows[n] = i
		}
		assert.False(t, r.Throttling && r.Class != relay.ClassRetry, "%v: throttling passes", r.Codes)
		assert.False(t, r.Ambiguous && r.Class != relay.ClassPoison, "%v: only a poison verdict can be ambiguous", r.Codes)
		assert.False(t, r.Size && !r.Divides, "%v: too large for one is not too large for half", r.Codes)
	}
}

// modelled returns the codes that the SDK's SNS client has types for, in the
// calls that are made here. They are in no list, only in the code that makes the
// types.
func modelled(t *testing.T) map[string]bool {
	pkg, err := build.Default.Import("github.com/aws/aws-sdk-go-v2/service/sns", ".", build.FindOnly)
	require.NoError(t, err)
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pkg.Dir, "deserializers.go"), nil, 0)
	require.NoError(t, err)
	codes := make(map[string]bool)
	for _, call := range []string{"Publish", "PublishBatch", "GetTopicAttributes", "ListTopics"} {
		before := len(codes)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "awsAwsquery_deserializeOpError"+call {
				ast.Inspect(f, func(n ast.Node) bool {
					if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
						if s, err := strconv.Unquote(l.Value); err == nil && s != "UnknownError" && !strings.Contains(s, " ") {
							codes[s] = true
						}
					}
					return true
				})
			}
		}
		if call == "Publish" {
			require.Greater(t, len(codes), before, "the SDK is not what it was")
		}
	}
	require.True(t, codes["BatchRequestTooLong"])
	return codes
}

// notSending are SQS's codes for what is never asked of it here: its registry
// does not say which call has which.
var notSending = map[string]bool{
	"InvalidIdFormat": true, "MessageNotInflight": true, "PurgeQueueInProgress": true,
	"QueueNameExists": true, "ReceiptHandleIsInvalid": true,
}

func TestTable_HasARowForEveryErrorOfTheSDK(t *testing.T) {
	for code := range modelled(t) {
		assert.NotNil(t, byCode[normal(code)], "SNS's %s", code)
	}
	require.Greater(t, len(sqs.TypeRegistry.Entries), 20)
	for name, e := range sqs.TypeRegistry.Entries {
		_, code, _ := strings.Cut(name, "#")
		if notSending[code] {
			continue
		}
		r := byCode[normal(name)]
		assert.NotNil(t, r, "SQS's %s", name)
		if query, ok := smithy.SchemaTrait[*smithytraits.AWSQueryError](e.Schema); ok {
			assert.Same(t, r, byCode[normal(query.ErrorCode)], "%s is %s in the header", name, query.ErrorCode)
		}
	}
}

func TestTable_AgreesWithTheSDKAboutThrottling(t *testing.T) {
	for code := range retry.DefaultThrottleErrorCodes {
		assert.True(t, Lookup(code).Throttling, code)
	}
	for code := range retry.DefaultRetryableErrorCodes {
		assert.NotEqual(t, &unknown, Lookup(code), code)
		assert.Equal(t, relay.ClassRetry, Lookup(code).Class, code)
	}
}

// The rows are few enough to be read; these are the spellings in which codes
// have been seen to arrive, and the decisions that cost most if they change.
func TestLookup_FindsACodeInEverySpelling(t *testing.T) {
	for class, codes := range map[relay.Class]string{
		relay.ClassRetry: `InternalError InternalFailure ServiceUnavailable ServiceUnavailableException HTTP500 HTTP502 HTTP503
			Timeout Connection Unanswered BrokenResponse NotSent ExpiredToken ExpiredTokenException RequestExpired
			RequestThrottled Throttling ThrottlingException Throttled ThrottledException TooManyRequestsException
			KMSThrottling KMS.ThrottlingException KmsThrottled RequestLimitExceeded SlowDown HTTP429 OverLimit
			com.amazonaws.sqs#RequestThrottled NobodyKnows Exception HTTP HTTP1 HTTP200 HTTPxyz`,
		relay.ClassPoison: `InvalidMessageContents InvalidParameter InvalidParameterValue InvalidParameterValueException
			ParameterValueInvalid ValidationException ValidationError InvalidAttributeValue EventTooLarge TooManyAttributes InvalidCharacter
			EventMissing HTTP413 com.amazonaws.sqs#InvalidMessageContents:http://internal.amazon.com/coral/`,
		relay.ClassDestination: `AuthorizationError AuthorizationErrorException AccessDenied AccessDeniedException NotFound
			NotFoundException AWS.SimpleQueueService.NonExistentQueue QueueDoesNotExist com.amazonaws.sqs#QueueDoesNotExist
			AWS.SimpleQueueService.QueueDeletedRecently InvalidAddress InvalidSecurity EndpointDisabled
			PlatformApplicationDisabled AWS.SimpleQueueService.UnsupportedOperation
			KMSAccessDenied KMSAccessDeniedException KMS.AccessDeniedException KmsAccessDenied
			KMSDisabled KMS.DisabledException KmsDisabled KMSNotFound KMS.NotFoundException KmsNotFound
			KMSInvalidState KMS.InvalidStateException KmsInvalidState KMSOptInRequired KMS.OptInRequired KmsOptInRequired
			KMS.InvalidKeyUsageException KmsInvalidKeyUsage NoRoute TopicNotFound InvalidClientTokenId
			UnrecognizedClientException SignatureDoesNotMatch InvalidSignatureException InvalidAccessKeyId
			MissingAuthenticationToken HTTP301 HTTP403 HTTP404`,
		relay.ClassOurs: `EmptyBatchRequest AWS.SimpleQueueService.EmptyBatchRequest BatchEntryIdsNotDistinct
			AWS.SimpleQueueService.BatchEntryIdsNotDistinct TooManyEntriesInBatchRequest InvalidBatchEntryId MalformedInput
			MalformedQueryString InvalidAction MissingParameter SerializationException
			BatchRequestTooLong AWS.SimpleQueueService.BatchRequestTooLong`,
	} {
		for _, code := range strings.Fields(codes) {
			assert.Equal(t, class, Lookup(code).Class, code)
		}
	}
	for _, code := range []string{"AWS.SimpleQueueService.BatchRequestTooLong", "BatchRequestTooLongException", "HTTP413"} {
		assert.True(t, Lookup(code).Size, code)
	}
	for _, code := range []string{"InvalidParameter", "ValidationError", "InvalidAttributeValue"} {
		assert.True(t, Lookup(code).Ambiguous, code)
	}
	for _, code := range []string{"InvalidMessageContents", "EventTooLarge"} {
		assert.False(t, Lookup(code).Ambiguous, code)
	}
}
