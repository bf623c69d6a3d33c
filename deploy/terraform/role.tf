# The workers' role. docs/security.md says what each statement is for.
resource "aws_iam_policy" "publish" {
  name        = "${var.prefix}-relay-publish"
  description = "what the workers of outbox-relay call"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      length(var.topics) == 0 ? [] : [{
        Sid      = "PublishToTopics"
        Effect   = "Allow"
        Action   = ["sns:Publish", "sns:GetTopicAttributes"]
        Resource = [for t in aws_sns_topic.this : t.arn]
        }, { # this and the next for "worker --check" only
        Sid      = "CheckSubscriptions"
        Effect   = "Allow"
        Action   = ["sns:ListSubscriptionsByTopic"]
        Resource = [for t in aws_sns_topic.this : t.arn]
        }, {
        Sid      = "CheckEachSubscription"
        Effect   = "Allow"
        Action   = ["sns:GetSubscriptionAttributes"]
        Resource = ["*"]
      }],
      length(var.queues) == 0 ? [] : [{
        Sid      = "SendToQueues"
        Effect   = "Allow"
        Action   = ["sqs:SendMessage", "sqs:GetQueueAttributes"]
        Resource = [for name, q in var.queues : aws_sqs_queue.this[name].arn]
      }],
      [{
        Sid      = "UseKeysOfEncryptedDestinations"
        Effect   = "Allow"
        Action   = ["kms:GenerateDataKey", "kms:Decrypt"]
        Resource = [aws_kms_key.this.arn]
      }],
    )
  })
}

locals {
  same_account = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.this.account_id } }
  trusted = concat(
    [for p in var.pod_identity[*] : {
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Condition = local.same_account
    }],
    [for i in var.irsa[*] : {
      Effect    = "Allow"
      Principal = { Federated = i.provider_arn }
      Action    = ["sts:AssumeRoleWithWebIdentity"]
      Condition = { StringEquals = {
        "${i.issuer}:aud" = "sts.amazonaws.com"
        "${i.issuer}:sub" = "system:serviceaccount:${i.namespace}:${i.service_account}"
      } }
    }],
    [for s in var.service[*] : {
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = ["sts:AssumeRole"]
      Condition = local.same_account
    }],
  )
}

resource "aws_iam_role" "worker" {
  count = length(local.trusted) > 0 ? 1 : 0

  name               = "${var.prefix}-relay"
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = local.trusted })
}

resource "aws_iam_role_policy_attachment" "publish" {
  count = length(local.trusted) > 0 ? 1 : 0

  role       = aws_iam_role.worker[0].name
  policy_arn = aws_iam_policy.publish.arn
}

resource "aws_eks_pod_identity_association" "worker" {
  count = var.pod_identity == null ? 0 : 1

  cluster_name    = var.pod_identity.cluster
  namespace       = var.pod_identity.namespace
  service_account = var.pod_identity.service_account
  role_arn        = aws_iam_role.worker[0].arn
}
