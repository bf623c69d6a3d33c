variable "prefix" {
  description = "How every name begins."
  type        = string
  default     = "outbox"
}

variable "topics" {
  description = "SNS topics by the topic of the outbox, and the queues that are subscribed to each. A filter is a filter policy on message attributes, such as { event_type = [\"OrderPaid\"] }."
  type = map(object({
    fifo = optional(bool, false)
    subscriptions = optional(map(object({
      filter = optional(map(list(string)))
    })), {})
  }))
  default = {}
}

variable "queues" {
  description = "SQS queues that the relay sends to itself, by the topic of the outbox."
  type = map(object({
    fifo = optional(bool, false)
  }))
  default = {}
}

variable "max_receive_count" {
  description = "How often a consumer may receive a message before it goes to the dead-letter queue."
  type        = number
  default     = 5
}

variable "pod_identity" {
  description = "On EKS with Pod Identity: the service account that gets the role."
  type = object({
    cluster         = string
    namespace       = optional(string, "outbox-relay")
    service_account = optional(string, "outbox-relay")
  })
  default = null
}

variable "irsa" {
  description = "On EKS with IRSA: the cluster's OIDC provider, its issuer without https://, and the service account that may take the role."
  type = object({
    provider_arn    = string
    issuer          = string
    namespace       = optional(string, "outbox-relay")
    service_account = optional(string, "outbox-relay")
  })
  default = null
}

variable "service" {
  description = "On ECS Fargate: what the workers' service needs. The secrets are ARNs of Secrets Manager; ca_parameter is the name of the SSM parameter that has the RDS CA bundle of the region. temporal_tls is the secret { \"cert\": …, \"key\": … } of mutual TLS, and temporal_ca_parameter the SSM parameter that has the CA of Temporal's certificate if it is one of your own. At an upgrade, migrate_image is the new version before image is. files_image is any with sh. batches and payload_budget are OUTBOX_BATCHES and OUTBOX_PAYLOAD_BUDGET. With IAM database authentication, database_user_arn is the workers' user, such as arn:aws:rds-db:eu-central-1:111122223333:dbuser:cluster-ABCDEFGHIJKL/relay; migrate still logs in with the password in owner_url."
  type = object({
    image                 = optional(string, "ghcr.io/temporal-outbox/relay:0.1.0")
    migrate_image         = optional(string)
    files_image           = optional(string, "public.ecr.aws/docker/library/busybox:1.37.0")
    cluster               = string
    subnets               = list(string)
    security_groups       = list(string)
    temporal_address      = string
    temporal_namespace    = string
    temporal_api_key      = optional(string)
    temporal_tls          = optional(string)
    temporal_ca_parameter = optional(string)
    database_url          = string
    database_user_arn     = optional(string)
    owner_url             = string
    ca_parameter          = optional(string, "/outbox-relay/rds-ca")
    task_queue            = optional(string, "outbox-relay")
    batches               = optional(string, "shared")
    payload_budget        = optional(string, "24MiB")
    desired_count         = optional(number, 2)
    log_days              = optional(number, 30)
  })
  default = null
}
