locals {
  routes = yamlencode({ topics = merge(
    { for name, t in aws_sns_topic.this : name => { sns = t.arn } },
    { for name, q in var.queues : name => { sqs = aws_sqs_queue.this[name].url } },
  ) })
}

output "routes" {
  description = "The file that OUTBOX_CONFIG names."
  value       = local.routes
}

output "queue_urls" {
  description = "Where consumers receive, by <topic>-<subscription> or by topic."
  value       = { for name, q in aws_sqs_queue.this : name => q.url }
}

output "role_arn" {
  description = "The role of the workers, if there is one."
  value       = one(aws_iam_role.worker[*].arn)
}

output "publish_policy_arn" {
  description = "What the workers call, for a role of your own."
  value       = aws_iam_policy.publish.arn
}

output "migrate_task" {
  description = "For aws ecs run-task."
  value       = one([for name, t in aws_ecs_task_definition.this : t.arn if name == "migrate"])
}

output "starter_task" {
  description = "For aws ecs run-task."
  value       = one([for name, t in aws_ecs_task_definition.this : t.arn if name == "starter"])
}

output "log_group" {
  description = "For aws logs tail, on ECS."
  value       = one(aws_cloudwatch_log_group.this[*].name)
}
