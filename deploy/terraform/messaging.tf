locals {
  # Every queue by its name without the prefix: those of subscriptions, and those that the
  # relay sends to itself.
  subscriptions = merge([
    for topic, t in var.topics : {
      for name, s in t.subscriptions : "${topic}-${name}" => { topic = topic, fifo = t.fifo, filter = s.filter }
    }
  ]...)
  queues = merge(
    { for name, s in local.subscriptions : name => s.fifo },
    { for name, q in var.queues : name => q.fifo },
  )
}

resource "aws_kms_key" "this" {
  description         = "messages of ${var.prefix}"
  enable_key_rotation = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "TheAccountDecidesByIAM"
        Effect    = "Allow"
        Principal = { AWS = "arn:${data.aws_partition.this.partition}:iam::${data.aws_caller_identity.this.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      # Without it SNS accepts what is published, and does not deliver it.
      {
        Sid       = "SNSDeliversToEncryptedQueues"
        Effect    = "Allow"
        Principal = { Service = "sns.amazonaws.com" }
        Action    = ["kms:GenerateDataKey", "kms:Decrypt"]
        Resource  = "*"
      },
    ]
  })

  lifecycle {
    prevent_destroy = true # without the key nobody can read what is in the queues
  }
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.prefix}"
  target_key_id = aws_kms_key.this.key_id
}

resource "aws_sns_topic" "this" {
  for_each = var.topics

  name                  = "${var.prefix}-${each.key}${each.value.fifo ? ".fifo" : ""}"
  fifo_topic            = each.value.fifo
  fifo_throughput_scope = each.value.fifo ? "MessageGroup" : null
  kms_master_key_id     = aws_kms_key.this.arn
}

resource "aws_sqs_queue" "this" {
  for_each = local.queues

  name                      = "${var.prefix}-${each.key}${each.value ? ".fifo" : ""}"
  fifo_queue                = each.value
  deduplication_scope       = each.value ? "messageGroup" : null
  fifo_throughput_limit     = each.value ? "perMessageGroupId" : null
  kms_master_key_id         = aws_kms_key.this.arn
  message_retention_seconds = 1209600
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead[each.key].arn
    maxReceiveCount     = var.max_receive_count
  })
}

resource "aws_sqs_queue" "dead" {
  for_each = local.queues

  name                      = "${var.prefix}-${each.key}-dead${each.value ? ".fifo" : ""}"
  fifo_queue                = each.value
  kms_master_key_id         = aws_kms_key.this.arn
  message_retention_seconds = 1209600
}

resource "aws_sqs_queue_policy" "this" {
  for_each = local.subscriptions

  queue_url = aws_sqs_queue.this[each.key].url
  policy    = local.may_deliver[each.key]
}

resource "aws_sqs_queue_policy" "dead" {
  for_each = local.subscriptions

  queue_url = aws_sqs_queue.dead[each.key].url
  policy    = local.may_deliver[each.key]
}

locals {
  may_deliver = {
    for name, s in local.subscriptions : name => jsonencode({
      Version = "2012-10-17"
      Statement = [{
        Effect    = "Allow"
        Principal = { Service = "sns.amazonaws.com" }
        Action    = ["sqs:SendMessage"]
        Resource  = [aws_sqs_queue.this[name].arn, aws_sqs_queue.dead[name].arn]
        Condition = { ArnEquals = { "aws:SourceArn" = aws_sns_topic.this[s.topic].arn } }
      }]
    })
  }
}

resource "aws_sns_topic_subscription" "this" {
  for_each = local.subscriptions

  topic_arn            = aws_sns_topic.this[each.value.topic].arn
  protocol             = "sqs"
  endpoint             = aws_sqs_queue.this[each.key].arn
  raw_message_delivery = true # the body is the payload, not an envelope
  filter_policy_scope  = each.value.filter == null ? null : "MessageAttributes"
  filter_policy        = each.value.filter == null ? null : jsonencode(each.value.filter)
  redrive_policy       = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead[each.key].arn })

  depends_on = [aws_sqs_queue_policy.this, aws_sqs_queue_policy.dead]
}
